//! The application behind a proxy: answers with the head of the request that reached it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) struct Echo {
    pub(super) port: u16,
    seen: Arc<AtomicUsize>,
    _work: JoinSet<()>,
}

impl Echo {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (counter, mut work) = (Arc::clone(&seen), JoinSet::new());
        work.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, Arc::clone(&counter)));
            }
        });
        Self { port, seen, _work: work }
    }

    /// How many requests came through.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// A websocket with the key of RFC 6455 section 1.3 is opened, and sends back what it gets.
async fn answer(mut stream: TcpStream, seen: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    seen.fetch_add(1, Ordering::SeqCst);
    let text = String::from_utf8_lossy(&head).to_lowercase();
    if text.contains("\r\nupgrade: websocket\r\n") {
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        return;
    }
    let start = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        head.len()
    );
    let _ = stream.write_all(start.as_bytes()).await;
    if !head.starts_with(b"HEAD ") {
        let _ = stream.write_all(&head).await;
    }
}
