//! A progress bar on a terminal, nothing on a pipe; and log lines that do not tear it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use litesnap::cycle::Observer;

/// Shown while a cycle has something to do.
#[derive(Debug, Clone)]
pub(crate) struct Bar(Arc<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let template = "{bar:30} {pos}/{len} databases  {per_sec}  {msg}  {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(Arc::new(ProgressBar::with_draw_target(Some(0), target).with_style(style)))
    }

    /// Where log lines go: above the bar.
    pub(crate) fn writer(&self) -> impl Write + Send + 'static {
        AboveBar(Arc::clone(&self.0))
    }
}

impl Observer for Bar {
    fn planned(&self, databases: u64) {
        if self.0.length() == Some(0) {
            self.0.reset();
        }
        self.0.inc_length(databases);
    }

    fn done(&self, bytes: u64) {
        self.0.inc(1);
        if bytes > 0 && !self.0.is_hidden() {
            let so_far: u64 = self.0.message().split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            self.0.set_message(format!("{} bytes", so_far + bytes));
        }
    }

    fn finished(&self) {
        self.0.finish_and_clear();
        self.0.set_length(0);
        self.0.set_message("");
    }
}

struct AboveBar(Arc<ProgressBar>);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
