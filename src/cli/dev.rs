//! `serve --dev`: a gateway to try out.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use anyhow::{Context as _, bail};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Config, Scope, ServiceKey};

/// Loopback only, and a service key that may do everything, printed at its first start.
pub(super) fn prepare(config: &mut Config) -> anyhow::Result<()> {
    let server = &config.server;
    for (key, address) in [
        ("server.listen", Some(server.listen)),
        ("server.ops_listen", Some(server.ops_listen)),
        ("server.grpc_listen", server.grpc_listen),
    ] {
        let Some(address) = address else { continue };
        if !address.ip().is_loopback() {
            bail!("{key} = {address}: --dev serves on loopback only; leave it out or drop --dev");
        }
    }
    if config.server.trusted_proxies.is_empty() {
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse()?, "::1/128".parse()?];
    }
    let dir = &config.redis.state_dir;
    let path = dir.join("dev-service-key");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| dir.display().to_string())?;
    let (key, made) = if let Ok(key) = fs::read_to_string(&path) {
        (key.trim().to_owned(), false)
    } else {
        let mut bytes = [0; 24];
        rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let key = format!("ghk_{}", URL_SAFE_NO_PAD.encode(bytes));
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{key}"))
            .with_context(|| path.display().to_string())?;
        (key, true)
    };
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    config.login.service_keys.push(ServiceKey {
        name: "dev".to_owned(),
        sha256,
        scopes: vec![
            Scope::SessionsCreate,
            Scope::SessionsRevoke,
            Scope::FeedRead,
            Scope::AdminRead,
            Scope::AdminWrite,
        ],
    });
    eprintln!("Development mode: not for production.");
    if made {
        eprintln!("  service key  {key}   (also in {})", path.display());
    } else {
        eprintln!("  service key  in {}", path.display());
    }
    Ok(())
}
