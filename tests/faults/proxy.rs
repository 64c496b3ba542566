//! A TCP proxy that does to a connection what networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It arrives.
    None,
    /// It arrives late, both ways.
    Delay(Duration),
    /// It never arrives, and nobody is told.
    BlackHole,
    /// Questions arrive, answers do not.
    DropReplies,
    /// Connections end at once.
    Reset,
}

/// An address that stands for another.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// The server behind it, and what is wrong on the way there.
    state: Arc<watch::Sender<(u16, Fault)>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(watch::Sender::new((server, Fault::None)));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, shared.subscribe()));
            }
        });
        Self { port, state, task }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.state.send_modify(|state| state.1 = fault);
    }

    /// Connections go elsewhere from now on; those that stand end.
    pub(crate) fn turn_to(&self, server: u16) {
        self.state.send_modify(|state| state.0 = server);
    }
}

async fn carry(client: TcpStream, mut state: watch::Receiver<(u16, Fault)>) {
    let (server, fault) = *state.borrow_and_update();
    if fault == Fault::Reset {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], server));
    let Ok(upstream) = TcpStream::connect(address).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = upstream.into_split();
    let ended = async {
        let over = |&(now, fault): &(u16, Fault)| now != server || fault == Fault::Reset;
        let _ = state.clone().wait_for(over).await;
    };
    tokio::select! {
        () = ended => {}
        () = copy(from_client, to_server, state.clone(), false) => {}
        () = copy(from_server, to_client, state.clone(), true) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<(u16, Fault)>,
    replies: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let fault = state.borrow_and_update().1;
        match fault {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::BlackHole => {
                // What was sent meanwhile is lost for good: a connection that skips a part of it is
                // of no use to anybody.
                let _ = state.wait_for(|(_, fault)| *fault != Fault::BlackHole).await;
                return;
            }
            Fault::DropReplies if replies => continue,
            _ => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
