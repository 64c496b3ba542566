//! The password file: who may log in. Read again when it changes; one that cannot be used changes
//! nothing.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::UserId;

/// What a hash may ask for: memory in KiB, passes, lanes. More would let one login stop the others.
const MOST: (u32, u32, u32) = (64 * 1024, 10, 4);

/// Somebody of the password file.
pub struct User {
    /// Their name.
    pub name: UserId,
    /// What their password is compared with.
    pub password: Arc<PasswordHash>,
    /// What they may do.
    pub roles: Vec<String>,
    /// `email` and `name`, as far as they are known.
    pub claims: Map<String, Value>,
    /// They may not log in, and have no sessions.
    pub disabled: bool,
    /// Changes with the password. Says nothing about it.
    pub mark: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    users: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    password: String,
    #[serde(default)]
    roles: Vec<String>,
    email: Option<String>,
    display_name: Option<String>,
    #[serde(default)]
    disabled: bool,
}

/// Everybody of one version of the file.
#[derive(Default)]
pub struct Directory {
    by_name: HashMap<UserId, Arc<User>>,
    in_order: Vec<Arc<User>>,
}

impl Directory {
    /// Reads a file's text. The message names what is wrong and quotes no hash.
    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut directory = Self::default();
        for (i, entry) in file.users.into_iter().enumerate() {
            let user = entry.read().map_err(|what| format!("users[{i}].{what}"))?;
            let user = Arc::new(user);
            if directory.by_name.insert(user.name.clone(), Arc::clone(&user)).is_some() {
                return Err(format!("users[{i}].name: {} stands there twice", user.name));
            }
            directory.in_order.push(user);
        }
        Ok(directory)
    }

    /// Who has a name.
    pub fn get(&self, name: &UserId) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// Everybody.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.in_order.iter()
    }
}

impl Entry {
    fn read(self) -> Result<User, String> {
        let name = self.name.parse().map_err(|error| format!("name: {error}"))?;
        let expected =
            "password: is not an argon2id PHC string; `gatehouse hash-password` prints one";
        let password = PasswordHash::new(&self.password).map_err(|_| expected.to_owned())?;
        let params = Params::try_from(&password).map_err(|_| expected.to_owned())?;
        if password.algorithm.as_str() != "argon2id" || password.hash.is_none() {
            return Err(expected.to_owned());
        }
        let (memory, passes, lanes) = MOST;
        if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
            return Err(format!(
                "password: asks for more than m={memory}, t={passes}, p={lanes}; hash it again"
            ));
        }
        let word = |role: &String| {
            (1..=64).contains(&role.len())
                && role.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
        };
        if self.roles.len() > 32 || !self.roles.iter().all(word) {
            return Err("roles: at most 32 of 1 to 64 letters, digits or - _ . : /".to_owned());
        }
        let mut claims = Map::new();
        for (field, claim, text) in
            [("email", "email", self.email), ("display_name", "name", self.display_name)]
        {
            let Some(text) = text else { continue };
            if text.len() > 256 || text.chars().any(char::is_control) {
                return Err(format!("{field}: at most 256 bytes without control characters"));
            }
            claims.insert(claim.to_owned(), text.into());
        }
        let digest = digest::digest(&digest::SHA256, self.password.as_bytes());
        let mark = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..9]);
        let (password, roles, disabled) = (Arc::new(password), self.roles, self.disabled);
        Ok(User { name, password, roles, claims, disabled, mark })
    }
}

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("login.users_file: {}: {what}", path.display())]
pub struct UnusableUsers {
    path: PathBuf,
    what: String,
}

/// Tells one version of the file from the next.
#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    modified: SystemTime,
    inode: u64,
    length: u64,
}

struct Watched {
    path: PathBuf,
    /// What was read, and what was seen at the last look.
    stamps: Mutex<(Option<Stamp>, Option<Stamp>)>,
}

/// The password file as it is now, or nobody.
pub struct Users {
    directory: ArcSwap<Directory>,
    file: Option<Watched>,
    /// Chooses whose hash stands in for that of somebody unknown.
    choose: RandomState,
}

impl Users {
    /// Reads the file at `path`. Without one nobody can log in with a password.
    pub fn open(path: Option<&Path>) -> Result<Self, UnusableUsers> {
        let choose = RandomState::new();
        let Some(path) = path else {
            return Ok(Self { directory: ArcSwap::default(), file: None, choose });
        };
        // The stamp comes first: what changes in between is then seen as a change.
        let seen = stamp(path);
        let directory = ArcSwap::from_pointee(read(path)?);
        let stamps = Mutex::new((seen, seen));
        let file = Some(Watched { path: path.to_owned(), stamps });
        Ok(Self { directory, file, choose })
    }

    /// Reads the file again when it is another than before, and was the same at the last two looks: a
    /// file that is being written may look whole in the middle. Returns whether it did. Blocks.
    pub(super) fn reload_if_changed(&self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let mut stamps = file.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&file.path);
        let (loaded, seen) = *stamps;
        *stamps = (loaded, now);
        if now == loaded || now != seen {
            return false;
        }
        *stamps = (now, now);
        match read(&file.path) {
            Ok(directory) => {
                tracing::info!(users = directory.in_order.len(), "password file reloaded");
                self.directory.store(Arc::new(directory));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the new password file cannot be used: the one before stays");
                false
            }
        }
    }

    /// Everybody, as of now.
    pub fn current(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Whether there is a password file.
    pub fn exist(&self) -> bool {
        self.file.is_some()
    }

    /// Whose hash a password for `name` is compared with when there is nobody of that name: the same
    /// one each time, and as costly as those of the people who exist.
    pub(super) fn stand_in(&self, directory: &Directory, name: &str) -> Option<Arc<PasswordHash>> {
        let number = u64::try_from(directory.in_order.len()).ok().filter(|number| *number > 0)?;
        let chosen = usize::try_from(self.choose.hash_one(name) % number).ok()?;
        Some(Arc::clone(&directory.in_order[chosen].password))
    }
}

fn read(path: &Path) -> Result<Directory, UnusableUsers> {
    fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| Directory::parse(&text))
        .map_err(|what| UnusableUsers { path: path.to_owned(), what })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let read = || -> io::Result<_> {
        let file = fs::metadata(path)?;
        Ok(Stamp { modified: file.modified()?, inode: file.ino(), length: file.len() })
    };
    read().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$\
                        sS0qxZa1Pkb1bb0YvvXjzbtJ3PvzcHJNqrPBhRxyKDo";

    fn problem(text: &str) -> String {
        Directory::parse(text).err().unwrap_or_default()
    }

    #[test]
    fn everybody_is_read() {
        let text = format!(
            "[[users]]\nname = 'ann'\npassword = '{HASH}'\nroles = ['staff']\n\
             email = 'ann@example.com'\ndisplay_name = 'Änn'\n\
             [[users]]\nname = 'bob'\npassword = '{HASH}'\ndisabled = true\n"
        );
        let directory = Directory::parse(&text).unwrap();
        let ann = directory.get(&"ann".parse().unwrap()).unwrap();
        assert_eq!(
            (&ann.roles[..], &ann.claims["name"]),
            (&["staff".to_owned()][..], &"Änn".into())
        );
        assert!(!ann.disabled && directory.get(&"bob".parse().unwrap()).unwrap().disabled);
        assert!(!format!("{ann:?}").contains("argon2"));
    }

    #[test]
    fn mistakes_are_named_and_no_hash_is_quoted() {
        let one = |password: &str| format!("[[users]]\nname = 'ann'\npassword = '{password}'\n");
        assert_eq!(problem(&one(HASH)), "");
        for password in [
            "hunter2",
            "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$sS0qxZa1Pkb1bb0YvvXjzbtJ3PvzcHJNqrPBhRxyKDo",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        ] {
            let what = problem(&one(password));
            assert!(what.starts_with("users[0].password: is not an argon2id PHC string"), "{what}");
            assert!(!what.contains(password));
        }
        for params in ["m=65537,t=1,p=1", "m=8,t=11,p=1", "m=64,t=1,p=5", "m=4294967295,t=1,p=1"] {
            let what = problem(&one(&HASH.replace("m=8,t=1,p=1", params)));
            assert!(what.contains("asks for more than m=65536, t=10, p=4"), "{params}: {what}");
        }
        assert!(problem("").contains("missing field `users`"), "an empty file is none");
        assert!(problem(&format!("{0}{0}", one(HASH))).contains("ann stands there twice"));
        assert!(problem(&one(HASH).replace("ann", "{ann}")).starts_with("users[0].name: may hold"));
        assert!(problem(&format!("{}admin = true", one(HASH))).contains("line 4: unknown field"));
    }
}
