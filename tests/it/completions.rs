//! Completions and manual pages: every command and option that `--help` names is in them, and what is to read them can.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::place::{Place, Ran};

/// What `litesnap COMMAND… --help` says.
fn help(place: &Place, command: &[String]) -> String {
    let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    place.run(&words).expect_code(0).out
}

/// Every command that a help names, and the commands of commands, each with the words that lead to it.
fn commands(place: &Place) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut at = 0;
    while let Some(command) = all.get(at).cloned() {
        let help = help(place, &command);
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        // A description that goes on in the next line is indented further.
        let names = listed.lines().filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
        let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
        all.extend(names.map(|name| command.iter().cloned().chain([name]).collect()));
        at += 1;
    }
    all.remove(0);
    assert!(all.len() >= 11 && all.contains(&vec!["forget-gone".to_owned()]), "{all:?}");
    all
}

/// The options that the help of `command` lists.
fn options(place: &Place, command: &[String]) -> Vec<String> {
    let help = help(place, command);
    // What is said of an option is indented further, and may begin with another's name.
    let lines = help.lines().filter(|line| line.len() - line.trim_start().len() <= 6).map(str::trim_start);
    let options =
        lines.filter(|l| l.starts_with('-')).filter_map(|l| l.split([' ', ',']).find(|w| w.starts_with("--")));
    let options: Vec<String> = options.map(|o| o.trim_end_matches("...").to_owned()).collect();
    assert!(options.contains(&"--help".to_owned()), "{help}");
    options
}

fn skipped(what: &str) {
    // Not eprintln, which the test harness would swallow.
    std::io::stderr().write_all(format!("SKIPPED: {what}\n").as_bytes()).unwrap();
}

/// Runs `program`; `None`, said aloud, if it is not there.
fn run(program: &str, args: &[&str], why: &str) -> Option<Ran> {
    let ran = Command::new(program).args(args).env("MANWIDTH", "200").env("LC_ALL", "C").stdin(Stdio::null()).output();
    match ran {
        Ok(out) => Some(out.into()),
        Err(_) => {
            skipped(&format!("{program} is not there {why}"));
            None
        }
    }
}

#[test]
fn each_shell_reads_its_completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).expect_code(0).out;
        for command in commands(&place) {
            assert!(script.contains(command.last().unwrap()), "{shell} does not know {command:?}");
            for option in options(&place, &command) {
                let named = if shell == "fish" { format!("-l {}", &option[2..]) } else { option.clone() };
                assert!(script.contains(&named), "{shell} does not know {command:?} {option}");
            }
        }
        assert!(!script.contains("--application"), "what is hidden is not offered");
        let file = place.path().join(shell);
        fs::write(&file, script).unwrap();
        if ["bash", "zsh", "fish"].contains(&shell) {
            let read = run(shell, &["-n", file.to_str().unwrap()], "to read its completions");
            if let Some(ran) = read {
                assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{shell}: {ran:#?}");
            }
        }
    }
    let ran = place.run(&["completions", "tcsh"]).expect_code(2);
    assert!(ran.err.contains("'tcsh'") && ran.err.contains("bash, zsh, fish"), "{ran:#?}");
}

/// Bash itself, asked what it would offer.
#[test]
fn bash_completes_commands_and_options() {
    let place = Place::new();
    fs::write(place.path().join("c"), place.run(&["completions", "bash"]).expect_code(0).out).unwrap();
    let offered = |words: &[&str]| -> Vec<String> {
        let list = words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
        let script = format!(
            "source ./c; COMP_WORDS=({list}); COMP_CWORD={}; _litesnap litesnap '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let out = Command::new("bash").args(["-c", &script]).current_dir(place.path()).output().unwrap();
        Ran::from(out).expect_code(0).out.lines().map(str::to_owned).collect()
    };
    assert_eq!(offered(&["litesnap", "forg"]), ["forget-gone"]);
    assert_eq!(offered(&["litesnap", "replicate", "--memory"]), ["--memory-limit"]);
    let shells = offered(&["litesnap", "completions", ""]);
    assert!(["bash", "zsh", "fish"].iter().all(|shell| shells.iter().any(|s| s == shell)), "{shells:?}");
}

#[test]
fn there_is_a_page_for_each_command_that_names_every_option() {
    let place = Place::new();
    let ran = place.run(&["man", "--out", "new/man1"]).expect_code(0);
    let folder = place.path().join("new/man1");
    let mut pages = vec![("litesnap.1".to_owned(), vec!["--help".to_owned(), "--version".to_owned()])];
    pages.extend(commands(&place).into_iter().map(|c| (format!("litesnap-{}.1", c.join("-")), options(&place, &c))));
    assert!(ran.out.starts_with(&format!("{} pages", pages.len())), "{ran:#?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), pages.len());
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o755);
    for (page, options) in &pages {
        let file = folder.join(page);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644, "root installs it, others read it");
        let Some(ran) = run("man", &["--warnings", "-l", file.to_str().unwrap()], "to show a manual page") else {
            return;
        };
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{page}: {ran:#?}");
        let words: Vec<&str> = ran.out.split_whitespace().map(|w| w.trim_matches(['[', ']', ','])).collect();
        assert_eq!(words.first().map(|w| w.to_lowercase()), Some(format!("{}(1)", page.trim_end_matches(".1"))));
        for option in options {
            assert!(words.contains(&option.as_str()), "{page} does not name {option}: {}", ran.out);
        }
        assert!(!ran.out.contains("--application"), "what is hidden is not told");
    }
    // Again, over the old ones.
    place.run(&["man", "--out", "new/man1"]).expect_code(0);
    fs::write(place.path().join("file"), "").unwrap();
    let ran = place.run(&["man", "--out", "file"]).expect_code(1);
    assert!(ran.err.starts_with("litesnap: cannot create the folder file") && ran.err.lines().count() == 1, "{ran:#?}");
}
