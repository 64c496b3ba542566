//! Where settings come from: defaults < file < environment < command line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::{fs, io};

use toml::{Table, Value};

use super::{Config, REFERENCE, validate};

static DEFAULTS: LazyLock<Table> = LazyLock::new(|| parse_reference(REFERENCE));

/// Every key, with a value of its type to show as an example.
pub(super) static KNOWN: LazyLock<Table> = LazyLock::new(|| parse_reference(&uncommented()));

#[expect(clippy::expect_used, reason = "compiled in, and every test loads it")]
fn parse_reference(text: &str) -> Table {
    text.parse().expect("reference.toml is TOML")
}

/// The reference with its examples in force. A space after `#` marks prose.
fn uncommented() -> String {
    let key = |line: &str| line.split_once('=').map(|(key, _)| key.to_owned());
    let mut lines: Vec<&str> = Vec::new();
    for line in REFERENCE.lines() {
        match line.strip_prefix('#') {
            Some(example) if example.starts_with(|first| first != ' ') => {
                lines.pop_if(|last| key(last).is_some() && key(last) == key(example));
                lines.push(example);
            }
            _ => lines.push(line),
        }
    }
    lines.join("\n")
}

/// What is wrong with the settings, one problem a line. Quotes no secrets.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

/// Loads the settings from a TOML file, variables named `GATEHOUSE__SECTION__KEY` or
/// `GATEHOUSE__SECTION__KEY_FILE`, and overrides of dotted keys; the later win.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = file {
        let table = read_toml(path).map_err(|problem| ConfigError(vec![problem]))?;
        layers.add(&table, &format!("set in {}", path.display()));
    }
    layers.add_env(env);
    for (key, text) in overrides {
        layers.add_text(key, text, "set on the command line");
    }
    layers.finish()
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "nothing from outside takes part")]
    fn default() -> Self {
        load(None, [], &[]).expect("the defaults are valid")
    }
}

fn read_toml(path: &Path) -> Result<Table, String> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own Display quotes the line, which may hold a secret.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{name}:{line}:{column}: {}", error.message())
    })
}

fn read_value(path: &str) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[derive(Default)]
struct Layers {
    merged: Table,
    /// By section and by dotted key.
    origins: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Layers {
    fn add_env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let mut names = BTreeMap::new();
        // Sorted, for the same problems in the same order.
        for (name, text) in env.into_iter().collect::<BTreeMap<_, _>>() {
            let Some(rest) = name.strip_prefix("GATEHOUSE__") else { continue };
            let key = rest.replace("__", ".").to_lowercase();
            let (key, text) = match key.strip_suffix("_file") {
                Some(stem) if known(&key).is_none() && known(stem).is_some() => {
                    (stem.to_owned(), read_value(&text))
                }
                _ => (key, Ok(text)),
            };
            let other = names.insert(key.clone(), name.clone());
            match (text, other) {
                (_, Some(other)) => {
                    self.problems.push(format!("{key}: {other} and {name} are both set"));
                }
                // The path is not quoted, for it may be a secret in the wrong place.
                (Err(error), _) => {
                    self.problems.push(format!("{key}: the file that {name} names: {error}"));
                }
                (Ok(text), None) => self.add_text(&key, &text, &format!("set by {name}")),
            }
        }
    }

    fn add_text(&mut self, key: &str, text: &str, origin: &str) {
        let string = || Value::from(text);
        let value = match known(key) {
            Some(Value::Integer(_)) => text.parse().map_or_else(|_| string(), Value::Integer),
            Some(Value::Boolean(_)) => text.parse().map_or_else(|_| string(), Value::Boolean),
            Some(Value::Array(items)) if items.iter().any(Value::is_table) => {
                self.problems.push(format!("{key}: can be set in a file only; {origin}"));
                return;
            }
            Some(Value::Array(_)) if text.is_empty() => Value::Array(Vec::new()),
            Some(Value::Array(_)) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            _ => string(),
        };
        let (section, value) = match key.split_once('.') {
            Some((section, name)) => (section, Table::from_iter([(name.to_owned(), value)]).into()),
            None => (key, value),
        };
        self.add(&Table::from_iter([(section.to_owned(), value)]), origin);
    }

    fn add(&mut self, layer: &Table, origin: &str) {
        for (section, value) in layer {
            self.origins.insert(section.clone(), origin.to_owned());
            let values = value.as_table().into_iter().flatten();
            let merged = self.merged.entry(section).or_insert(Table::new().into()).as_table_mut();
        }
        self.compare("", layer, &KNOWN);
    }
}
