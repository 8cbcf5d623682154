"""What reaches standard output."""

import json
import warnings

import scoresde.cli.folder


def test_only_json_reaches_standard_output(trained, monkeypatch, call):
    """Whatever a library prints, and every warning, goes to standard error."""
    real = scoresde.cli.folder.write_report

    def chatty(run, **options):
        print("chatter")
        warnings.warn("a warning", stacklevel=1)
        return real(run, **options)

    monkeypatch.setattr("scoresde.cli.folder.write_report", chatty)
    code, out, err = call("--json", "report", trained)
    assert code == 0
    assert json.loads(out) == {"report": str(trained / "report.html")}
    assert "chatter" in err
    assert "warning: a warning" in err
