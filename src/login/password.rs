//! Comparing passwords: slow on purpose, so on threads of its own that give way to everything else,
//! with a bounded queue.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The longest password, in bytes.
pub const PASSWORD_MAX: usize = 1024;

/// Passwords that wait to be compared. One takes some 30 ms, so that the last waits for two seconds.
const WAITING: usize = 64;
/// Of those, from devices that nobody knows.
const STRANGERS: usize = 48;

struct Job {
    password: SecretString,
    hash: Arc<PasswordHash>,
    fits: oneshot::Sender<bool>,
}

/// More passwords wait to be compared than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Compares passwords with their hashes.
pub struct Passwords {
    jobs: mpsc::Sender<Job>,
    strangers: Semaphore,
}

impl Passwords {
    /// Starts the threads; they end with this.
    pub fn start() -> Self {
        let (sender, jobs) = mpsc::channel::<Job>(WAITING);
        let jobs = Arc::new(Mutex::new(jobs));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores.saturating_sub(1).max(1) {
            let jobs = Arc::clone(&jobs);
            thread::spawn(move || work(&jobs));
        }
        Self { jobs: sender, strangers: Semaphore::new(STRANGERS) }
    }

    /// Whether a password fits. A known device finds a place where strangers do not.
    pub async fn fits(
        &self,
        password: SecretString,
        hash: Arc<PasswordHash>,
        known: bool,
    ) -> Result<bool, Busy> {
        let _place =
            if known { None } else { Some(self.strangers.try_acquire().map_err(|_| Busy)?) };
        let (fits, answer) = oneshot::channel();
        self.jobs.try_send(Job { password, hash, fits }).map_err(|_| Busy)?;
        answer.await.map_err(|_| Busy)
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    // On Linux this speaks of the thread alone. Elsewhere it may be refused, and costs nothing then.
    let _ = rustix::process::nice(10);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job { password, hash, fits }) = job else {
            return;
        };
        // Whoever asked may have gone.
        if !fits.is_closed() {
            let password = password.expose_secret().as_bytes();
            let _ = fits.send(Argon2::default().verify_password(password, &*hash).is_ok());
        }
    }
}

/// A PHC string of a password: argon2id with 19 MiB, two passes and one lane (OWASP).
pub fn hash(password: &[u8]) -> Result<String, &'static str> {
    match std::str::from_utf8(password).map(|text| text.chars().count()) {
        Err(_) => Err("the password is not UTF-8"),
        Ok(0..8) => Err("the password has less than 8 characters"),
        Ok(_) if password.len() > PASSWORD_MAX => Err("the password has more than 1024 bytes"),
        Ok(_) => Argon2::default()
            .hash_password(password)
            .map(|hash| hash.to_string())
            .map_err(|_| "the password could not be hashed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_hash_only() {
        let text = hash(b"correct horse").unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert_ne!(text, hash(b"correct horse").unwrap(), "salted");
        let hash = Arc::new(PasswordHash::new(&text).unwrap());
        let passwords = Passwords::start();
        for (password, fits) in [("correct horse", true), ("correct horsf", false)] {
            let answer = passwords.fits(password.into(), Arc::clone(&hash), false).await;
            assert_eq!(answer, Ok(fits));
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_known_devices_have_places_of_their_own() {
        let hash = Arc::new(PasswordHash::new(&hash(b"correct horse").unwrap()).unwrap());
        let passwords = Arc::new(Passwords::start());
        let attempt = |known| {
            let (passwords, hash) = (Arc::clone(&passwords), Arc::clone(&hash));
            async move { passwords.fits("wrong horse".into(), hash, known).await }
        };
        let many = futures::future::join_all((0..200).map(|_| attempt(false)));
        let (strangers, known) = tokio::join!(many, attempt(true));
        assert_eq!(known, Ok(false));
        assert_eq!(strangers.iter().filter(|answer| answer.is_ok()).count(), STRANGERS);
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        assert!(hash(b"short").unwrap_err().contains("8 characters"));
        assert!(hash(&[b'a'; 1025]).unwrap_err().contains("1024 bytes"));
        assert!(hash(&[0xff; 10]).unwrap_err().contains("UTF-8"));
    }
}
