//! `serve --dev`: a gateway to try out.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Config, Scope, ServiceKey};
use crate::login::password;

/// Makes a password file with `demo` and `admin`, unless there is one. Returns the passwords it made.
fn people(config: &mut Config) -> anyhow::Result<Vec<(&'static str, String)>> {
    if config.login.users_file.is_some() {
        return Ok(Vec::new());
    }
    let path = config.redis.state_dir.join("users.toml");
    config.login.users_file = Some(path.clone());
    if path.exists() {
        return Ok(Vec::new());
    }
    let (mut made, mut text) = (Vec::new(), String::new());
    for (name, roles) in [("demo", ""), ("admin", "\"admin\"")] {
        let password = random(12)?;
        let hash = password::hash(password.as_bytes()).map_err(anyhow::Error::msg)?;
        writeln!(text, "[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\nroles = [{roles}]\n")?;
        made.push((name, password));
    }
    write_private(&path, &text)?;
    Ok(made)
}

fn random(bytes: usize) -> anyhow::Result<String> {
    let mut secret = vec![0; bytes];
    rand::fill(&mut secret).map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(secret))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| path.display().to_string())
}

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
        let key = format!("ghk_{}", random(24)?);
        write_private(&path, &format!("{key}\n"))?;
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
    let passwords = people(config)?;
    eprintln!("Development mode: not for production.");
    if made {
        eprintln!("  service key  {key}   (also in {})", path.display());
    } else {
        eprintln!("  service key  in {}", path.display());
    }
    for (name, password) in passwords {
        eprintln!("  user {name:<7} password {password}   (is not shown again)");
    }
    Ok(())
}
