//! The applications' processes: started, killed, started again, brought to rest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::plan::Application;

/// Long enough for a loaded machine to finish its transactions.
const REST_MAX: Duration = Duration::from_secs(120);

/// One process of an application, with its log.
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) killable: bool,
    pub(crate) log: PathBuf,
    pub(crate) log_read: u64,
    spec: PathBuf,
    errors: PathBuf,
    seed: u64,
    starts: u64,
    process: Process,
}

/// A child and what it says; its whole group is killed with it.
struct Process {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Writer {
    /// Starts all processes of `application`; their files lie in `dir`.
    pub(crate) fn start_all(application: &Application, dir: &Path, seed: u64) -> Vec<Self> {
        let spec = dir.join(format!("{}.json", application.name));
        fs::write(&spec, application.spec.to_string()).unwrap();
        let start = |n: usize| {
            let name = format!("{}-{n}", application.name);
            let (log, errors) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.errors")));
            let (spec, killable) = (spec.clone(), application.killable);
            let process = Process::start(&spec, &log, &errors, &format!("{seed}:{name}:0"));
            Self { name, killable, log, log_read: 0, spec, errors, seed, starts: 0, process }
        };
        (0..application.processes).map(start).collect()
    }

    /// SIGKILL, at this moment or where it may be killed, and a new process at once. An error if it had ended by itself.
    pub(crate) fn kill_and_restart(&mut self) -> Result<(), String> {
        if let Some(why) = self.ended() {
            return Err(why);
        }
        if self.killable {
            self.process.kill();
        } else {
            self.process.say("die");
            let status = self.process.child.wait().unwrap();
            if status.signal() != Some(Signal::SIGKILL as i32) {
                return Err(format!("the application {} ended with {status}: {}", self.name, self.told()));
            }
        }
        self.starts += 1;
        let seed = format!("{}:{}:{}", self.seed, self.name, self.starts);
        self.process = Process::start(&self.spec, &self.log, &self.errors, &seed);
        Ok(())
    }

    /// Why it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.process.child.try_wait().unwrap()?;
        Some(format!("the application {} ended with {status}: {}", self.name, self.told()))
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    pub(crate) fn ask_to_rest(&mut self) {
        self.process.say("quiet");
    }

    /// Waits until it rests; the databases that it keeps open, with their journal modes.
    pub(crate) fn resting(&mut self) -> Result<BTreeMap<String, String>, String> {
        let line = self.process.said.recv_timeout(REST_MAX);
        let line =
            line.map_err(|e| format!("the application {} does not come to rest ({e}): {}", self.name, self.told()))?;
        let open = line.strip_prefix("quiet ").unwrap_or_else(|| panic!("{} says {line:?}", self.name));
        Ok(serde_json::from_str(open).unwrap())
    }

    pub(crate) fn go_on(&mut self) {
        self.process.say("go");
    }
}

impl Process {
    fn start(spec: &Path, log: &Path, errors: &Path, seed: &str) -> Self {
        let errors = File::options().create(true).append(true).open(errors).unwrap();
        let mut child = Command::new("python3")
            .arg(program("writer.py"))
            .args([spec, log])
            .arg(seed)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("this needs python3");
        let (stdin, out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (tell, said) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, stdin, said }
    }

    fn say(&mut self, word: &str) {
        // One that has ended is noticed where its end is looked for.
        writeln!(self.stdin, "{word}").ok();
    }

    fn kill(&mut self) {
        killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL).ok();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// A program of `tests/torture`.
pub(crate) fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture").join(name)
}
