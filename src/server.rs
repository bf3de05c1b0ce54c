//! HTTP for people and machines that ask how the loop fares: `/stats`, `/metrics`, `/healthz`, `/readyz`, `/livez`.
//!
//! Answers come from a [`Monitor`] and nothing else: it opens no file of a database, asks no store, changes nothing, and
//! reads no request body. Whatever a client does, it takes no more than one of [`CONNECTIONS_MAX`] places, 16 KiB and half a minute; each
//! connection is one request. It belongs on a thread of its own, where nothing that it does delays a cycle.

mod answer;
mod stats;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use answer::Desk;

/// Connections at once; one more ends the oldest.
pub const CONNECTIONS_MAX: usize = 64;
/// A request's head must be there by then.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection ends by then, whatever its state.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Request line and headers, in bytes; also what is buffered of anything.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Out of descriptors, most likely: asking at once again would only take time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens already, and answers once it is served.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes `address`; from now on connections wait to be served. Port 0 is any that is free.
    ///
    /// # Errors
    /// [`Error::Usage`] when the address is in use, or is none of this host's.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        });
        bound.map_err(|e| Error::Usage(refusal(address, &e)))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what `monitor` knows, for ever; dropping the future, or its runtime, ends it with all connections.
    ///
    /// # Errors
    /// The system's, if the listener cannot be used on this runtime.
    pub async fn serve(self, monitor: Arc<Monitor>) -> io::Result<Infallible> {
        let listener = TcpListener::from_std(self.listener)?;
        let desk = Arc::new(Desk::new(monitor, self.address.ip().is_loopback()));
        // An answer takes milliseconds: where all places are taken, the oldest connection is one that only holds its place.
        let mut under_way: VecDeque<tokio::task::JoinHandle<()>> = VecDeque::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    under_way.retain(|connection| !connection.is_finished());
                    if under_way.len() >= CONNECTIONS_MAX
                        && let Some(oldest) = under_way.pop_front()
                    {
                        oldest.abort();
                    }
                    under_way.push_back(tokio::spawn(attend(stream, Arc::clone(&desk))));
                }
                Err(e) => {
                    log::debug!("HTTP: cannot take a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn refusal(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "give --listen another port, or 0 for any that is free",
        io::ErrorKind::PermissionDenied => "give --listen a port from 1024 on",
        _ => "give --listen an address of this host, such as 127.0.0.1:9090",
    };
    format!("cannot listen on {address}: {error}; {advice}")
}

/// One request, one answer, and the end.
async fn attend(stream: TcpStream, desk: Arc<Desk>) {
    let answer = service_fn(move |request| {
        let response = desk.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    // What a client did wrong is its own business.
    match tokio::time::timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => log::debug!("HTTP: {e}"),
        Err(_) => log::debug!("HTTP: a connection took too long"),
    }
}
