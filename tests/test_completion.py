"""What shells complete: commands, flags, what a flag takes; and files, which the shell knows better."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from hyperlax.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_flags(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "optuna-hp-search" in script and "resume-from" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], check=False, input=script, text=True).returncode == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sh", ["show"]),
        ("optuna-hp-search --samp", ["--sampler"]),
        ("optuna-hp-search --sampler c", ["cmaes"]),
        ("optuna-hp-search --env-config gymnax.pe", ["gymnax.pendulum"]),
        ("optuna-hp-search --objective-names peak_performance no", ["normalized_auc"]),
        ("optuna-hp-search --algo-and-network-config sac", ["sac_mlp"]),
        ("recipes co", ["copy"]),
        ("recipes show ppo_cartpole_q", ["ppo_cartpole_quick"]),
        ("completion f", ["fish"]),
        ("show stu", []),
        ("show ", []),
        ("compare one ", []),
        ("optuna-hp-search --resume-from ", []),
    ],
)
def test_bash_completes_words_and_leaves_files_to_its_default(typed, offered, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["completion", "bash"]) == 0
    words = ["hyperlax", *typed.split(" ")]
    script = f"""
{capsys.readouterr().out}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
said=$(complete -p hyperlax); [[ $said == *"-o default"* ]] || exit 3
words=($said); "${{words[-2]}}"; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    ended = subprocess.run(["bash"], check=False, input=script, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.split()) == offered
