//! Whoever is told how the loop fares, while it runs: HTTP, the heartbeat, the service manager, all on one thread beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::Context;
use litesnap::config::Config;
use litesnap::control::Control;
use litesnap::heartbeat::Heartbeat;
use litesnap::monitor::Monitor;
use litesnap::notify::Notifier;
use litesnap::report::CycleReport;
use litesnap::server::Server;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Tells them. Ends with all that it has under way when dropped.
pub(crate) struct Teller {
    monitor: Arc<Monitor>,
    control: Arc<Control>,
    heartbeat: Option<Arc<Heartbeat>>,
    notifier: Option<Arc<Notifier>>,
    thread: Option<Beside>,
}

/// The thread and what ends it.
struct Beside {
    runtime: Handle,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// A heartbeat on its way, or none.
pub(crate) struct Beat(Option<mpsc::Receiver<()>>);

impl Beat {
    /// Returns when it is over; it takes no longer than its timeouts, or a stop.
    pub(crate) fn wait(self) {
        // An error is its end, too.
        self.0.map(|over| over.recv());
    }
}

impl Teller {
    /// Listens on `listen`, tells the service manager that all is ready, and begins to answer. Starts nothing where nobody is to be told.
    pub(crate) fn start(
        config: &Config,
        listen: Option<SocketAddr>,
        monitor: Arc<Monitor>,
        control: &Arc<Control>,
        env: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let var = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        let server = listen.map(Server::bind).transpose()?;
        let heartbeat = config.telling.heartbeat_url.clone().map(Heartbeat::new).transpose()?.map(Arc::new);
        let notifier = Notifier::from_env(var, config.store.request_timeout).map(Arc::new);
        let anybody = server.is_some() || heartbeat.is_some() || notifier.is_some();
        let thread = if anybody { Some(Beside::start()?) } else { None };
        let teller = Self { monitor, control: Arc::clone(control), heartbeat, notifier, thread };
        if let Some(server) = server {
            teller.serve(server);
        }
        if let Some(notifier) = teller.notifier.clone() {
            notifier.ready();
            let (monitor, control) = (Arc::clone(&teller.monitor), Arc::clone(control));
            teller.spawn(async move { notifier.attend(&monitor, &control).await });
        }
        Ok(teller)
    }

    fn serve(&self, server: Server) {
        log::info!("answering HTTP on http://{}", server.address());
        let monitor = Arc::clone(&self.monitor);
        self.spawn(async move {
            let Err(e) = server.serve(monitor).await;
            log::error!("HTTP is not answered: {e}");
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(beside) = &self.thread {
            beside.runtime.spawn(task);
        }
    }

    /// Tells them of a cycle that is over. Waits for nobody.
    pub(crate) fn after(&self, report: &CycleReport) -> Beat {
        if self.heartbeat.is_none() && self.notifier.is_none() {
            return Beat(None);
        }
        let vitals = self.monitor.vitals();
        if let Some(notifier) = &self.notifier {
            notifier.status(&vitals);
        }
        let Some(heartbeat) = self.heartbeat.clone() else { return Beat(None) };
        if !vitals.is_fresh() || !report.unmatched.is_empty() {
            log::debug!("no heartbeat: not everything is fresh");
            return Beat(None);
        }
        let (over, beaten) = mpsc::channel();
        let control = Arc::clone(&self.control);
        self.spawn(async move {
            tokio::select! {
                () = heartbeat.beat() => {}
                () = control.until_stopped() => {}
            }
            drop(over);
        });
        Beat(Some(beaten))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // A loop at rest ends before its thread could say so.
        if let Some(notifier) = &self.notifier {
            notifier.stopping();
        }
        if let Some(Beside { end, thread, .. }) = self.thread.take() {
            drop(end);
            if thread.join().is_err() {
                log::error!("the thread that tells how the loop fares has failed");
            }
        }
    }
}

impl Beside {
    fn start() -> anyhow::Result<Self> {
        let attempt = "cannot start the thread that tells how the loop fares";
        let runtime = Builder::new_current_thread().max_blocking_threads(2).enable_all().build().context(attempt)?;
        let (handle, (end, ended)) = (runtime.handle().clone(), oneshot::channel::<()>());
        let work = move || {
            // Nothing is ever sent: an error is the end.
            runtime.block_on(ended).ok();
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("tell".into()).spawn(work).context(attempt)?;
        Ok(Self { runtime: handle, end, thread })
    }
}
