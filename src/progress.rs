//! A progress bar on a terminal, nothing on a pipe; and log lines that do not tear it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use litesnap::cycle::Observer;

/// Shown while a cycle has something to do.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    bar: Arc<ProgressBar>,
    /// Stored in this cycle.
    bytes: Arc<AtomicU64>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let template = "{bar:30} {human_pos}/{human_len} databases  {rate}  {msg}  {eta} left";
        let rate =
            |state: &ProgressState, text: &mut dyn fmt::Write| write!(text, "{:.0}/s", state.per_sec()).unwrap_or(());
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), target).with_style(style.with_key("rate", rate));
        Self { bar: Arc::new(bar), bytes: Arc::default() }
    }

    /// Where log lines go: above the bar.
    pub(crate) fn writer(&self) -> impl Write + Send + 'static {
        AboveBar(Arc::clone(&self.bar))
    }
}

impl Observer for Bar {
    fn planned(&self, databases: u64) {
        if self.bar.length() == Some(0) {
            self.bar.reset();
        }
        self.bar.inc_length(databases);
    }

    fn done(&self, bytes: u64) {
        self.bar.inc(1);
        let so_far = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > 0 && !self.bar.is_hidden() {
            self.bar.set_message(HumanBytes(so_far).to_string());
        }
    }

    fn finished(&self) {
        self.bar.finish_and_clear();
        self.bar.set_length(0);
        self.bar.set_message("");
        self.bytes.store(0, Ordering::Relaxed);
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
