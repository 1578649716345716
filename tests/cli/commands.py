"""Running command lines in tests."""

from pathlib import Path

from foreworld.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "person.json"
STRICT = ROOT / "docs" / "examples" / "strict.toml"


def run(capsys, *tokens):
    """Exit code, standard output and standard error of a command line."""
    code = main([str(token) for token in tokens])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def fails(capsys, code, words, *tokens):
    """Expect one line of error that has these words, and nothing on standard output."""
    found, out, err = run(capsys, *tokens)
    assert found == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0]
