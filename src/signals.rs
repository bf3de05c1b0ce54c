//! SIGINT and SIGTERM stop, the second one at once; SIGUSR1 asks for a cycle now.

use std::sync::Arc;

use litesnap::control::Control;
use tokio::signal::unix::{SignalKind, signal};

/// Listens until the process ends.
pub(crate) fn listen(runtime: &tokio::runtime::Handle, control: &Arc<Control>) -> std::io::Result<()> {
    let _inside = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, control) = (signal(kind)?, Arc::clone(control));
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if control.is_stopped() {
                    // Nothing is lost: what is not recorded counts as changed.
                    std::process::exit(128 + kind.as_raw_value());
                }
                log::info!("stopping: finishing what is in flight (a second signal stops at once)");
                control.stop(kind.as_raw_value());
            }
        });
    }
    let (mut now, control) = (signal(SignalKind::user_defined1())?, Arc::clone(control));
    runtime.spawn(async move {
        while now.recv().await.is_some() {
            control.cycle_now();
        }
    });
    Ok(())
}
