//! The keys: who signs access tokens, and what refresh handles are sealed with.
//!
//! A directory holds them, so that gateways share them by sharing files: `*.pem` are signing keys
//! (PKCS#8), `*.key` are 32 random bytes in base64. The newest name of each kind is used, every
//! other one still verifies.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use aws_lc_rs::{hkdf, hmac, rand, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use crate::config::SigningAlgorithm;
use crate::model::Timestamp;

fn jwt(algorithm: SigningAlgorithm) -> Algorithm {
    match algorithm {
        SigningAlgorithm::EdDSA => Algorithm::EdDSA,
        SigningAlgorithm::ES256 => Algorithm::ES256,
        SigningAlgorithm::RS256 => Algorithm::RS256,
    }
}

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or the directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: not {expected}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The cryptographic library refused.
    #[error("could not make a key: {0}")]
    Crypto(&'static str),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError + use<> {
    let path = path.to_owned();
    move |source| KeyError::Io { path, source }
}

/// A key that signs or only verifies access tokens. The algorithm belongs to the key.
pub struct SigningKey {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// What it is used with.
    pub algorithm: SigningAlgorithm,
    header: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    jwk: Jwk,
}

impl SigningKey {
    /// Reads a private key in PKCS#8 PEM; the key tells which algorithm it is for.
    fn from_pem(pem: &[u8]) -> Option<Self> {
        let (algorithm, encoding) = EncodingKey::from_ed_pem(pem)
            .map(|key| (SigningAlgorithm::EdDSA, key))
            .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (SigningAlgorithm::ES256, key)))
            .or_else(|_| EncodingKey::from_rsa_pem(pem).map(|key| (SigningAlgorithm::RS256, key)))
            .ok()?;
        let mut jwk = Jwk::from_encoding_key(&encoding, jwt(algorithm)).ok()?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).ok()?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let header = format!(r#"{{"typ":"at+jwt","alg":"{algorithm:?}","kid":"{kid}"}}"#);
        let header = URL_SAFE_NO_PAD.encode(header);
        Some(Self { kid, algorithm, header, encoding, decoding, jwk })
    }

    /// The first part of every token that this key signs.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<String, KeyError> {
        jsonwebtoken::crypto::sign(message, &self.encoding, jwt(self.algorithm))
            .map_err(|_| KeyError::Crypto("signing failed"))
    }

    pub(super) fn verifies(&self, signature: &str, message: &[u8]) -> bool {
        let algorithm = jwt(self.algorithm);
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, algorithm).unwrap_or(false)
    }
}

/// Keys for one kind of handle and nothing else.
pub(super) struct Purpose {
    pub(super) mac: hmac::Key,
    pub(super) seal: hmac::Key,
}

/// What handles are made with, a MAC key and a sealing key for each kind.
pub struct HandleKey {
    pub(super) id: [u8; 4],
    pub(super) refresh: Purpose,
    pub(super) cookie: Purpose,
    pub(super) ticket: hmac::Key,
    pub(super) device: hmac::Key,
    request: hmac::Key,
}

impl HandleKey {
    /// HKDF-SHA256 (RFC 5869) with one label a purpose.
    fn derive(secret: &[u8; 32]) -> Result<Self, KeyError> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"gatehouse").extract(secret);
        let derived = |label: &'static [u8]| -> Result<[u8; 32], KeyError> {
            let mut key = [0; 32];
            root.expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .map_err(|_| KeyError::Crypto("key derivation failed"))?;
            Ok(key)
        };
        let key = |label| Ok(hmac::Key::new(hmac::HMAC_SHA256, &derived(label)?));
        let [a, b, c, d, ..] = derived(b"handle id v1")?;
        Ok(Self {
            id: [a, b, c, d],
            refresh: Purpose { mac: key(b"handle mac v1")?, seal: key(b"handle seal v1")? },
            cookie: Purpose { mac: key(b"cookie mac v1")?, seal: key(b"cookie seal v1")? },
            ticket: key(b"login ticket v1")?,
            device: key(b"device v1")?,
            request: key(b"request id v1")?,
        })
    }
}

/// Every key a gateway has.
pub struct KeyRing {
    signing: Vec<SigningKey>,
    active: usize,
    by_header: HashMap<String, usize>,
    handle: Vec<HandleKey>,
}

impl KeyRing {
    /// Reads the keys of a directory, and makes those that are missing: gateways that start at the
    /// same time on the same directory end up with the same ones.
    pub fn open(dir: &Path, algorithm: SigningAlgorithm) -> Result<Self, KeyError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
        if let Some(ring) = Self::read(dir, algorithm)? {
            return Ok(ring);
        }
        let lock = dir.join("lock");
        let file = File::create(&lock).map_err(io_error(&lock))?;
        file.lock().map_err(io_error(&lock))?;
        if let Some(ring) = Self::read(dir, algorithm)? {
            return Ok(ring);
        }
        let files = list(dir)?;
        if !files.iter().any(|path| has_extension(path, "key")) {
            generate_handle_key(dir)?;
        }
        generate_signing_key(dir, algorithm)?;
        Self::read(dir, algorithm)?.ok_or(KeyError::Crypto("the new keys do not read back"))
    }

    /// Reads without making anything; `None` when a kind of key is missing.
    fn read(dir: &Path, algorithm: SigningAlgorithm) -> Result<Option<Self>, KeyError> {
        let (mut signing, mut handle) = (Vec::new(), Vec::new());
        for path in list(dir)? {
            if has_extension(&path, "pem") {
                let pem = fs::read(&path).map_err(io_error(&path))?;
                let expected = "a private key in PKCS#8 PEM: Ed25519, P-256 or RSA";
                signing
                    .push(SigningKey::from_pem(&pem).ok_or(KeyError::Invalid { path, expected })?);
            } else if has_extension(&path, "key") {
                let text = fs::read_to_string(&path).map_err(io_error(&path))?;
                let secret = STANDARD.decode(text.trim()).ok().and_then(|s| s.try_into().ok());
                let expected = "32 bytes in base64";
                let secret = secret.ok_or(KeyError::Invalid { path, expected })?;
                handle.push(HandleKey::derive(&secret)?);
            }
        }
        let active = signing.iter().rposition(|key| key.algorithm == algorithm);
        Ok(match active {
            Some(active) if !handle.is_empty() => Some(Self::of(signing, active, handle)),
            _ => None,
        })
    }

    fn of(signing: Vec<SigningKey>, active: usize, handle: Vec<HandleKey>) -> Self {
        let by_header =
            signing.iter().enumerate().map(|(i, key)| (key.header.clone(), i)).collect();
        Self { signing, active, by_header, handle }
    }

    /// The key that signs.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing[self.active]
    }

    /// Every key that verifies.
    pub fn signing_keys(&self) -> &[SigningKey] {
        &self.signing
    }

    /// Which key a token says it was signed with, and what follows its header.
    pub fn header_of<'a>(&self, token: &'a [u8]) -> Option<(usize, &'a [u8])> {
        self.signing.iter().enumerate().find_map(|(i, key)| {
            Some((i, token.strip_prefix(key.header.as_bytes())?.strip_prefix(b".")?))
        })
    }

    /// The key whose tokens begin with this header, exactly.
    pub(super) fn by_header(&self, header: &str) -> Option<&SigningKey> {
        self.by_header.get(header).map(|&i| &self.signing[i])
    }

    pub(super) fn handle_key(&self) -> &HandleKey {
        // `open` returns no ring without one.
        &self.handle[self.handle.len() - 1]
    }

    /// Turns the id of a request into the id of the session that it creates.
    pub fn request_key(&self) -> &hmac::Key {
        &self.handle_key().request
    }

    pub(super) fn handle_key_by_id(&self, id: &[u8]) -> Option<&HandleKey> {
        self.handle.iter().find(|key| key.id == id)
    }

    /// The public keys as a JWK set (RFC 7517 section 5).
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.signing.iter().map(|key| key.jwk.clone()).collect() }
    }

    /// Keys that no other ring has.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::open(dir.path(), SigningAlgorithm::EdDSA).unwrap()
    }
}

/// Adds a signing key to a directory. Returns its path.
pub fn generate_signing_key(dir: &Path, algorithm: SigningAlgorithm) -> Result<PathBuf, KeyError> {
    let refused = |_| KeyError::Crypto("key generation failed");
    let der = match algorithm {
        // Version 1 of PKCS#8: the form that jsonwebtoken can derive the public key from.
        SigningAlgorithm::EdDSA => Ed25519KeyPair::generate()
            .and_then(|key| key.to_pkcs8v1().map(|der| der.as_ref().to_vec()))
            .map_err(refused)?,
        SigningAlgorithm::ES256 => EcdsaKeyPair::generate_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &rand::SystemRandom::new(),
        )
        .map_err(refused)?
        .as_ref()
        .to_vec(),
        SigningAlgorithm::RS256 => rsa::KeyPair::generate(rsa::KeySize::Rsa2048)
            .and_then(|key| {
                let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der()?;
                Ok(der.as_ref().to_vec())
            })
            .map_err(refused)?,
    };
    write_new(dir, "pem", &pem(&der))
}

fn generate_handle_key(dir: &Path) -> Result<PathBuf, KeyError> {
    let mut secret = [0; 32];
    rand::fill(&mut secret).map_err(|_| KeyError::Crypto("no randomness"))?;
    write_new(dir, "key", &format!("{}\n", STANDARD.encode(secret)))
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&byte| char::from(byte)));
        out.push('\n');
    }
    out.push_str("-----END PRIVATE KEY-----\n");
    out
}

/// Names sort by time, to the millisecond, so that the newest key is the last. The file appears
/// whole, for a gateway that reads the directory meanwhile.
fn write_new(dir: &Path, extension: &str, text: &str) -> Result<PathBuf, KeyError> {
    let path = dir.join(format!("{:013}.{extension}", Timestamp::now().0));
    let draft = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().map_err(io_error(&path))?;
    Ok(path)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, KeyError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(io_error(dir))?;
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_share_a_directory_share_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let rings: Vec<KeyRing> = std::thread::scope(|scope| {
            let open = || KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for ring in &rings {
            assert_eq!(ring.signing.len(), 1);
            assert_eq!(ring.signing_key().kid, rings[0].signing_key().kid);
            assert_eq!(ring.handle_key().id, rings[0].handle_key().id);
        }
    }

    #[test]
    fn every_algorithm_signs_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let all = [SigningAlgorithm::RS256, SigningAlgorithm::ES256, SigningAlgorithm::EdDSA];
        for (i, algorithm) in all.into_iter().enumerate() {
            let ring = KeyRing::open(dir.path(), algorithm).unwrap();
            assert_eq!(ring.signing.len(), i + 1, "the older keys still verify");
            let key = ring.signing_key();
            assert_eq!(key.algorithm, algorithm);
            let signature = key.sign(b"message").unwrap();
            assert!(key.verifies(&signature, b"message"));
            assert!(!key.verifies(&signature, b"massage"));
        }
    }

    #[test]
    fn key_files_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).unwrap();
        for path in list(dir.path()).unwrap().iter().filter(|path| !path.ends_with("lock")) {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        }
    }

    #[test]
    fn a_broken_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.pem"), "nonsense").unwrap();
        let error = KeyRing::open(dir.path(), SigningAlgorithm::EdDSA).err().unwrap();
        assert!(error.to_string().contains("1.pem: not a private key"), "{error}");
    }
}
