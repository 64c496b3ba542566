//! Tells where an address is, from a database in MaxMind's format.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use maxminddb::{MaxMindDbError, PathElement, Reader, path};

use super::device::tidy;
use crate::model::{Location, Timestamp};

/// The longest name of a city, in bytes.
pub const CITY_MAX: usize = 64;

/// A location database, read into memory, or none.
#[derive(Debug)]
pub struct Locations {
    reader: ArcSwapOption<Reader<Vec<u8>>>,
    file: Option<(PathBuf, Mutex<Stamp>)>,
}

/// Tells one version of a file from the next.
type Stamp = Option<(SystemTime, u64)>;

/// A file that cannot be used as a location database.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be used as a location database: {cause}", path.display())]
pub struct UnusableDatabase {
    path: PathBuf,
    cause: MaxMindDbError,
}

impl Locations {
    /// Reads the database at `path`. Without one every address is unknown.
    pub fn open(path: Option<&Path>) -> Result<Self, UnusableDatabase> {
        let Some(path) = path else {
            return Ok(Self { reader: ArcSwapOption::empty(), file: None });
        };
        // The stamp comes first: what changes in between is then seen as a change.
        let seen = stamp(path);
        let reader = Reader::open_readfile(path)
            .map_err(|cause| UnusableDatabase { path: path.to_owned(), cause })?;
        warn_if_old(path, &reader);
        Ok(Self {
            reader: ArcSwapOption::from_pointee(reader),
            file: Some((path.to_owned(), Mutex::new(seen))),
        })
    }

    /// Reads the file again when it is another than before. Blocks; a file that cannot be used
    /// is logged once and changes nothing.
    pub fn reload_if_changed(&self) {
        let Some((path, seen)) = &self.file else {
            return;
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(path);
        if now == *seen {
            return;
        }
        *seen = now;
        match Reader::open_readfile(path) {
            Ok(reader) => {
                warn_if_old(path, &reader);
                self.reader.store(Some(reader.into()));
                tracing::info!(path = %path.display(), "location database reloaded");
            }
            Err(error) => tracing::warn!(
                path = %path.display(), %error,
                "the new location database cannot be used: the one before stays"
            ),
        }
    }

    /// Where `ip` is, as far as the database knows.
    pub fn locate(&self, ip: IpAddr) -> Option<Location> {
        let reader = self.reader.load();
        let record = reader.as_ref()?.lookup(ip.to_canonical()).ok()?;
        // The first of each pair is MaxMind's schema, the second that of flat databases.
        let text = |nested: &[PathElement<'_>], flat: &[PathElement<'_>]| {
            let read = |path| record.decode_path::<&str>(path).ok().flatten();
            read(nested).or_else(|| read(flat))
        };
        let country = text(&path!["country", "iso_code"], &path!["country_code"])?;
        let city = text(&path!["city", "names", "en"], &path!["city"]);
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_alphabetic()) {
            return None;
        }
        Some(Location {
            city: city.map(|city| tidy(city, CITY_MAX)).filter(|city| !city.is_empty()),
            country: country.to_ascii_uppercase(),
        })
    }

    /// When the database was made.
    pub fn built(&self) -> Option<DateTime<Utc>> {
        let epoch = self.reader.load().as_ref()?.metadata().build_epoch;
        DateTime::from_timestamp(epoch.try_into().ok()?, 0)
    }
}

/// Addresses move; the makers of these databases give out a new one every week.
fn warn_if_old(path: &Path, reader: &Reader<Vec<u8>>) {
    const OLD: u64 = 60;
    let built = reader.metadata().build_epoch;
    let days = Timestamp::now().seconds().saturating_sub(built) / 86_400;
    if days > OLD {
        let path = path.display();
        tracing::warn!(%path, days, "the location database is old: places may be wrong; get a new one");
    }
}

fn stamp(path: &Path) -> Stamp {
    let read = || -> io::Result<_> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.modified()?, metadata.len()))
    };
    read().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/geoip").join(name)
    }

    fn located(locations: &Locations, ip: &str) -> Option<String> {
        locations.locate(ip.parse().unwrap()).map(|location| location.to_string())
    }

    fn text(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        let mut value = if length < 29 { vec![0x40 | length] } else { vec![0x5d, length - 29] };
        value.extend(text.as_bytes());
        value
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut value = vec![0xe0 | u8::try_from(entries.len()).unwrap()];
        for (key, entry) in entries {
            value.extend([text(key), entry.clone()].concat());
        }
        value
    }

    /// A database that has one record for every IPv4 address.
    fn database(record: &[u8]) -> Vec<u8> {
        let metadata = map(&[
            ("binary_format_major_version", vec![0xa1, 2]),
            ("binary_format_minor_version", vec![0xa0]),
            ("build_epoch", vec![0x01, 0x02, 9]),
            ("database_type", text("Test")),
            ("description", map(&[])),
            ("ip_version", vec![0xa1, 4]),
            ("languages", vec![0x00, 0x04]),
            ("node_count", vec![0xc1, 1]),
            ("record_size", vec![0xa1, 24]),
        ]);
        let tree = [0, 0, 17, 0, 0, 17];
        [&tree, &[0; 16][..], record, b"\xab\xcd\xefMaxMind.com", &metadata].concat()
    }

    fn open(file: &[u8]) -> Locations {
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(&path, file).unwrap();
        Locations::open(Some(path.path())).unwrap()
    }

    #[test]
    fn a_city_database_says_city_and_country() {
        let locations = Locations::open(Some(&fixture("GeoIP2-City-Test.mmdb"))).unwrap();
        for (ip, expected) in [
            ("81.2.69.142", Some("London, GB")),
            ("::ffff:81.2.69.142", Some("London, GB")),
            ("89.160.20.128", Some("Linköping, SE")),
            ("2001:218::1", Some("JP")),
            ("127.0.0.1", None),
            ("::1", None),
        ] {
            assert_eq!(located(&locations, ip).as_deref(), expected, "{ip}");
        }
        assert_eq!(locations.built().unwrap().to_rfc3339(), "2026-02-04T22:49:29+00:00");
    }

    #[test]
    fn a_country_database_says_the_country() {
        let locations = Locations::open(Some(&fixture("GeoLite2-Country-Test.mmdb"))).unwrap();
        assert_eq!(located(&locations, "81.2.69.142").as_deref(), Some("GB"));
    }

    #[test]
    fn a_flat_database_is_read() {
        let record = map(&[("city", text("Paris")), ("country_code", text("fr"))]);
        let locations = open(&database(&record));
        assert_eq!(located(&locations, "192.0.2.1").as_deref(), Some("Paris, FR"));
        assert_eq!(located(&locations, "::ffff:192.0.2.1").as_deref(), Some("Paris, FR"));
        assert_eq!(located(&locations, "2001:db8::1"), None);
        assert_eq!(locations.built().unwrap().timestamp(), 9);
    }

    #[test]
    fn what_the_database_says_is_made_safe() {
        let city = |city: &str| {
            let record = map(&[("country_code", text("GB")), ("city", text(city))]);
            open(&database(&record)).locate([192, 0, 2, 1].into()).unwrap().city
        };
        assert_eq!(city("Lon\u{1b}don\n").as_deref(), Some("London"));
        assert_eq!(city(&"ä".repeat(33)), Some("ä".repeat(32)));
        assert_eq!(city("\0"), None);
        for country in ["", "G", "GBR", "G1", "ä"] {
            let record = map(&[("country_code", text(country)), ("city", text("London"))]);
            assert_eq!(located(&open(&database(&record)), "192.0.2.1"), None, "{country:?}");
        }
    }

    #[test]
    fn without_a_database_every_address_is_unknown() {
        let locations = Locations::open(None).unwrap();
        locations.reload_if_changed();
        assert_eq!(located(&locations, "81.2.69.142"), None);
        assert_eq!(locations.built(), None);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        for name in ["missing.mmdb", "README.md"] {
            let error = Locations::open(Some(&fixture(name))).unwrap_err().to_string();
            assert!(error.contains(&format!("fixtures/geoip/{name} cannot")), "{error}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("city.mmdb");
        fs::copy(fixture("GeoLite2-Country-Test.mmdb"), &path).unwrap();
        let locations = Locations::open(Some(&path)).unwrap();
        let says = |expected| {
            locations.reload_if_changed();
            assert_eq!(located(&locations, "81.2.69.142").as_deref(), Some(expected));
        };
        says("GB");
        fs::copy(fixture("GeoIP2-City-Test.mmdb"), &path).unwrap();
        says("London, GB");
        fs::write(&path, "broken").unwrap();
        says("London, GB");
        fs::remove_file(&path).unwrap();
        says("London, GB");
        fs::copy(fixture("GeoLite2-Country-Test.mmdb"), &path).unwrap();
        says("GB");
    }

    #[test]
    fn a_new_file_of_the_same_length_is_read_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let record = |country| database(&map(&[("country_code", text(country))]));
        fs::write(&file, record("GB")).unwrap();
        let locations = Locations::open(Some(file.path())).unwrap();
        fs::write(&file, record("SE")).unwrap();
        file.as_file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        locations.reload_if_changed();
        assert_eq!(located(&locations, "192.0.2.1").as_deref(), Some("SE"));
    }

    #[test]
    fn hostile_databases_neither_panic_nor_hang() {
        for name in [
            "MaxMind-DB-test-broken-pointers-24.mmdb",
            "MaxMind-DB-test-broken-search-tree-24.mmdb",
            "MaxMind-DB-test-decode-path-shared-budget.mmdb",
            "MaxMind-DB-test-pointer-decoder-dos-ipv6.mmdb",
            "cyclic-data-structure.mmdb",
            "libmaxminddb-uint64-max-epoch.mmdb",
        ] {
            let (done, end) = mpsc::channel();
            thread::spawn(move || {
                if let Ok(locations) = Locations::open(Some(&fixture(name))) {
                    locations.built();
                    for ip in ["1.1.1.1", "81.2.69.142", "255.255.255.255", "::1", "2001:db8::1"] {
                        assert_eq!(located(&locations, ip), None);
                    }
                }
                done.send(())
            });
            assert_eq!(end.recv_timeout(Duration::from_secs(10)), Ok(()), "{name}");
        }
    }
}
