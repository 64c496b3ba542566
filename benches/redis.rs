//! A Redis server for a benchmark, ended with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub(crate) struct Redis {
    process: Child,
    dir: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .current_dir(dir.path())
            .args(["--port", "0", "--unixsocket", "r.sock", "--save", ""])
            .args(["--appendonly", "yes", "--maxmemory-policy", "noeviction"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
