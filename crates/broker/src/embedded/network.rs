//! TCP whose connections a test has in its hands: what the broker writes can be held back, and all connections be cut.
//! Whatever waits is woken when that changes; nothing here polls.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use client::{BoxFuture, Socket};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::network::{Accepted, Acceptor, Network, TcpNetwork};

/// The network; clones share what is in force.
#[derive(Clone, Default)]
pub(super) struct HeldNetwork(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_held: AtomicBool,
    /// Those that have ended are taken out when another is accepted.
    connections: Mutex<Vec<Weak<Connection>>>,
}

#[derive(Default)]
struct Connection {
    is_cut: AtomicBool,
    /// Something is to be written, and held back.
    is_waiting: AtomicBool,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl HeldNetwork {
    pub(super) fn hold(&self) {
        self.0.is_held.store(true, Ordering::SeqCst);
    }

    pub(super) fn release(&self) {
        self.0.is_held.store(false, Ordering::SeqCst);
        self.0.each(|connection| wake(&connection.writer));
    }

    /// Connections on which something is held back.
    pub(super) fn waiting(&self) -> usize {
        let connections = self.0.connections.lock();
        let connections = connections.iter().filter_map(Weak::upgrade);
        connections.filter(|connection| connection.is_waiting.load(Ordering::SeqCst)).count()
    }

    pub(super) fn cut(&self) {
        self.0.each(|connection| {
            connection.is_cut.store(true, Ordering::SeqCst);
            wake(&connection.reader);
            wake(&connection.writer);
        });
    }
}

impl Shared {
    fn each(&self, act: impl Fn(&Connection)) {
        self.connections.lock().iter().filter_map(Weak::upgrade).for_each(|connection| act(&connection));
    }
}

fn wake(slot: &Mutex<Option<Waker>>) {
    if let Some(waker) = slot.lock().take() {
        waker.wake();
    }
}

impl Network for HeldNetwork {
    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let inner = TcpNetwork.bind(address).await?;
            Ok(Box::new(HeldAcceptor { inner, shared: Arc::clone(&self.0) }) as Box<dyn Acceptor>)
        })
    }
}

struct HeldAcceptor {
    inner: Box<dyn Acceptor>,
    shared: Arc<Shared>,
}

impl Acceptor for HeldAcceptor {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let accepted = self.inner.accept().await?;
            let connection = Arc::new(Connection::default());
            let mut connections = self.shared.connections.lock();
            connections.retain(|known| known.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
            drop(connections);
            let shared = Arc::clone(&self.shared);
            let socket = Box::new(HeldSocket { inner: accepted.socket, connection, shared });
            Ok(Accepted { socket, ..accepted })
        })
    }
}

struct HeldSocket {
    inner: Box<dyn Socket>,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

impl HeldSocket {
    /// Whether writing may go on. Who is to be woken is noted before anything is looked at, so that no change is missed.
    fn poll_let_through(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        note(&self.connection.writer, context);
        if self.connection.is_cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let is_held = self.shared.is_held.load(Ordering::SeqCst);
        self.connection.is_waiting.store(is_held, Ordering::SeqCst);
        if is_held { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

fn note(slot: &Mutex<Option<Waker>>, context: &Context<'_>) {
    let mut slot = slot.lock();
    match &mut *slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}

impl AsyncRead for HeldSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        note(&self.connection.reader, context);
        if self.connection.is_cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for HeldSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_let_through(context))?;
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_let_through(context))?;
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
