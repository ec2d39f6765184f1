//! Where connections come from: the sockets that a broker listens on.
//! Connections that it opens itself come from the client's environment; both are chosen by whoever starts the node.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use client::{BoxFuture, Socket};
use tokio::net::TcpListener;

/// A way to listen.
pub trait Network: Send + Sync + 'static {
    /// Listens at `host:port`, `:port` for every interface, or port 0 for any that is free.
    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>>;
}

/// A bound socket. Connections wait until they are accepted.
pub trait Acceptor: Send + Sync + 'static {
    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>>;
}

/// A connection that was accepted.
pub struct Accepted {
    /// Its bytes.
    pub socket: Box<dyn Socket>,
    /// Who connects.
    pub peer: SocketAddr,
    /// Whom the peer has dialled.
    pub local: SocketAddr,
    /// The descriptor that it takes, if it takes one.
    pub descriptor: Option<RawFd>,
}

/// TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let bound = match address.strip_prefix(':') {
                // Every interface: of both protocols, where the machine has both.
                Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
                    Err(error) if error.kind() != ErrorKind::AddrInUse => {
                        TcpListener::bind(format!("0.0.0.0:{port}")).await
                    }
                    bound => bound,
                },
                None => TcpListener::bind(address).await,
            };
            Ok(Box::new(bound?) as Box<dyn Acceptor>)
        })
    }
}

impl Acceptor for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let (socket, peer) = TcpListener::accept(self).await?;
            let local = socket.local_addr()?;
            let _ = socket.set_nodelay(true);
            // A peer whose machine is gone says nothing more, not even that.
            let _ = socket2::SockRef::from(&socket).set_keepalive(true);
            let descriptor = Some(socket.as_raw_fd());
            Ok(Accepted { socket: Box::new(socket), peer, local, descriptor })
        })
    }
}
