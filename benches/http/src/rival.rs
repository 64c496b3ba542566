//! What the rivals have in common: arguments, an allocator, and the headers of an answer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Gatehouse has it too: what is compared is not allocators. Load generators keep the system's.
pub use mimalloc::MiMalloc as Allocator;
use tokio::net::TcpListener;

/// The headers of Gatehouse's answer, of a length that they have in life.
pub const IDENTITY: [(&str, &str); 6] = [
    ("remote-user", "ann"),
    ("remote-groups", "staff"),
    ("remote-email", "ann@example.com"),
    ("remote-name", "Ann"),
    ("remote-session", "AZq3vT0kR2mXw8LhJc5u1Q"),
    ("cache-control", "no-store"),
];

/// Every rival takes both, so that the driver need not know who needs what.
#[derive(clap::Parser)]
pub struct Args {
    /// Where to listen; port 0 for any.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The unix socket of a Redis server.
    #[arg(long)]
    pub redis: Option<PathBuf>,
}

impl Args {
    /// Listens, and says where: the driver waits for that.
    pub async fn bind(&self) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(self.listen).await?;
        eprintln!("listening {}", listener.local_addr()?);
        Ok(listener)
    }
}
