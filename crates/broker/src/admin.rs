//! The operations endpoint: `/livez`, `/readyz` and `/metrics` over HTTP, on a port of its own.
//! It answers before the broker does, so that a start can be watched. Connections are bounded in number and in life, so
//! that a silent or slow peer can neither exhaust the broker nor shut out others for long. It changes nothing.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;

/// Connections at the same time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// A connection is cut when it is this old, whatever it does: readers connect again.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(10);
/// How often it is said that nothing can be accepted.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the broker answers clients, and if not, why; clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Option<Cow<'static, str>>>>);

impl Readiness {
    /// Not ready, because the broker starts.
    #[must_use]
    pub fn starting() -> Readiness {
        Readiness(Arc::new(Mutex::new(Some(Cow::Borrowed("the broker is starting")))))
    }

    /// The broker answers clients.
    pub fn ready(&self) {
        *self.0.lock() = None;
    }

    /// The broker does not answer clients, for this reason.
    pub fn not_ready(&self, reason: impl Into<Cow<'static, str>>) {
        *self.0.lock() = Some(reason.into());
    }

    fn reason(&self) -> Option<Cow<'static, str>> {
        self.0.lock().clone()
    }
}

/// Serves the endpoint until the task is aborted.
pub fn serve(socket: TcpListener, readiness: Readiness, metrics: Metrics) -> JoinHandle<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Endpoint { readiness, metrics });
    serve_router(socket, router)
}

/// Serves a page of another program's metrics at `/metrics`, made anew whenever it is asked for, until the task is aborted.
pub fn serve_page(socket: TcpListener, page: impl Fn() -> String + Send + Sync + 'static) -> JoinHandle<()> {
    let page = Arc::new(page);
    let answer = move || {
        let page = Arc::clone(&page);
        async move { written(tokio::task::spawn_blocking(move || page()).await) }
    };
    serve_router(socket, Router::new().route("/livez", get(livez)).route("/metrics", get(answer)))
}

fn serve_router(socket: TcpListener, router: Router) -> JoinHandle<()> {
    let listener =
        BoundedListener { socket, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), complained: None };
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the operations endpoint has ended");
        }
    })
}

#[derive(Clone)]
struct Endpoint {
    readiness: Readiness,
    metrics: Metrics,
}

/// The process runs and its reactor turns.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(endpoint): State<Endpoint>) -> (StatusCode, String) {
    match endpoint.readiness.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics_page(State(endpoint): State<Endpoint>) -> Response {
    let state = endpoint.metrics.look().await;
    // A long text, and a look into /proc: not on the reactor.
    written(tokio::task::spawn_blocking(move || endpoint.metrics.page(state)).await)
}

fn written(page: Result<String, tokio::task::JoinError>) -> Response {
    match page {
        Ok(page) => ([(header::CONTENT_TYPE, METRICS_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Accepts while there is a place.
struct BoundedListener {
    socket: TcpListener,
    places: Arc<Semaphore>,
    complained: Option<Instant>,
}

impl Listener for BoundedListener {
    type Io = MortalStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (MortalStream, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.socket.accept().await {
                Ok((socket, peer)) => {
                    let end = Box::pin(sleep(CONNECTION_LIFE_MAX));
                    return (MortalStream { socket, end, _place: place }, peer);
                }
                Err(error) => {
                    if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                        self.complained = Some(Instant::now());
                        tracing::warn!(%error, "connections to the operations endpoint cannot be accepted");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that fails when its time has come.
struct MortalStream {
    socket: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl MortalStream {
    fn check_life(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for MortalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_life(context)?;
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for MortalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_life(context)?;
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    /// Long enough for a loaded machine; nothing waits for it when all is well.
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn started() -> (SocketAddr, Readiness, Metrics) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, readiness, metrics) =
            (socket.local_addr().unwrap(), Readiness::starting(), Metrics::new());
        serve(socket, readiness.clone(), metrics.clone());
        (address, readiness, metrics)
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let asked = async {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        };
        timeout(PATIENCE, asked).await.expect("an answer")
    }

    #[tokio::test]
    async fn it_is_alive_before_it_is_ready() {
        let (address, readiness, _) = started().await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200 OK"));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("not ready: the broker is starting\n"), "{answer}");
        readiness.ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 OK"));
        readiness.not_ready("the broker is stopping");
        assert!(get(address, "/readyz").await.ends_with("not ready: the broker is stopping\n"));
        assert!(get(address, "/else").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn metrics_are_served_in_prometheus_text_format() {
        let (address, _, metrics) = started().await;
        metrics.connection_opened();
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("\nottla_connections 1\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_are_cut_and_make_room() {
        let (address, _, _) = started().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // Time stands still while there is work and leaps to the next timer when all wait: to the cut.
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        for mut socket in silent {
            assert!(matches!(socket.read(&mut [0]).await, Ok(0) | Err(_)));
        }
    }
}
