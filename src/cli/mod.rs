//! The commands.

mod dev;
mod serve;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::login::password::{self, PASSWORD_MAX};
use crate::store::embedded;
use crate::token::{KeyRing, keys};

/// A session gateway: revocable sessions, checked from memory.
#[derive(Parser)]
#[command(name = "gatehouse", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve {
        #[command(flatten)]
        settings: Settings,
        /// Try it out: loopback only, Redis and keys of its own under ./.gatehouse, a demo service key
        #[arg(long)]
        dev: bool,
    },
    /// Print the effective configuration, secrets redacted, or say what is wrong with it
    CheckConfig {
        #[command(flatten)]
        settings: Settings,
    },
    /// Read a password from standard input, print the line for a password file
    HashPassword,
    /// Make or list signing keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Print a configuration file with every key and its default
    ExampleConfig,
    /// Become the embedded Redis (internal)
    #[command(hide = true, name = embedded::SUBCOMMAND)]
    EmbeddedRedis {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Add a signing key; gateways that start from now on sign with it
    Generate {
        #[command(flatten)]
        settings: Settings,
    },
    /// List the signing keys; the one marked * signs
    List {
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args)]
struct Settings {
    /// Configuration file (TOML); without it the defaults and `GATEHOUSE__SECTION__KEY` count
    #[arg(long, value_name = "FILE", env = "GATEHOUSE_CONFIG")]
    config: Option<PathBuf>,
    /// Override one setting: --set sessions.limit=20
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err("expected KEY=VALUE, for example sessions.limit=20".to_owned()),
    }
}

impl Settings {
    fn load(&self) -> anyhow::Result<Config> {
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Ok(config::load(self.config.as_deref(), env, &self.overrides)?)
    }
}

/// Runs the command of the command line.
pub fn main() -> ExitCode {
    // Both libraries would otherwise pick a backend by which features happen to be on.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gatehouse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "it is what these commands are for")]
fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { settings, dev } => {
            let mut config = settings.load()?;
            if dev {
                dev::prepare(&mut config)?;
            }
            serve::run(config)
        }
        Command::CheckConfig { settings } => {
            print!("{}", settings.load()?.to_toml_redacted());
            Ok(())
        }
        Command::HashPassword => {
            let mut password = Vec::new();
            let most = u64::try_from(PASSWORD_MAX + 2).unwrap_or(u64::MAX);
            std::io::stdin().take(most).read_to_end(&mut password)?;
            let line = password.strip_suffix(b"\n").unwrap_or(&password);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            println!("{}", password::hash(line).map_err(anyhow::Error::msg)?);
            Ok(())
        }
        Command::ExampleConfig => {
            print!("{}", config::REFERENCE);
            Ok(())
        }
        Command::Keys { command: KeysCommand::Generate { settings } } => {
            let config = settings.load()?;
            KeyRing::open(&config.keys_dir(), config.tokens.algorithm)?;
            let path = keys::generate_signing_key(&config.keys_dir(), config.tokens.algorithm)?;
            println!("{}", path.display());
            Ok(())
        }
        Command::Keys { command: KeysCommand::List { settings } } => {
            let config = settings.load()?;
            let ring = KeyRing::open(&config.keys_dir(), config.tokens.algorithm)?;
            for key in ring.signing_keys() {
                let mark = if key.kid == ring.signing_key().kid { '*' } else { ' ' };
                println!("{mark} {:?} {}", key.algorithm, key.kid);
            }
            Ok(())
        }
        Command::EmbeddedRedis { args } => Err(embedded::exec_server(&args).into()),
    }
}
