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
    let mut layers = Layers { merged: DEFAULTS.clone(), ..Layers::default() };
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
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
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
            let Some(rest) = name.strip_prefix("GATEHOUSE__") else {
                continue;
            };
            let key = rest.replace("__", ".").to_lowercase();
            let (key, text) = match key.strip_suffix("_file") {
                Some(stem) if known(stem).is_some() => (stem.to_owned(), read_value(&text)),
                _ => (key, Ok(text)),
            };
            // A path is not quoted, for it may be a secret in the wrong place.
            let text = match names.insert(key.clone(), name.clone()) {
                Some(other) => Err(format!("{other} and {name} are both set")),
                None => text.map_err(|error| format!("the file that {name} names: {error}")),
            };
            match text {
                Ok(text) => self.add_text(&key, &text, &format!("set by {name}")),
                Err(what) => self.problems.push(format!("{key}: {what}")),
            }
        }
    }

    fn add_text(&mut self, key: &str, text: &str, origin: &str) {
        let string = || Value::from(text);
        let value = match known(key) {
            Some(Value::Integer(_)) => text.parse().map_or_else(|_| string(), Value::Integer),
            Some(Value::Boolean(_)) => text.parse().map_or_else(|_| string(), Value::Boolean),
            Some(Value::Array(items)) if items.iter().any(Value::is_table) => {
                let problem = format!("{key}: can be set in a file only; {origin}");
                return self.problems.push(problem);
            }
            Some(Value::Array(_)) if text.is_empty() => Value::Array(Vec::new()),
            Some(Value::Array(_)) => text.split(',').map(str::trim).collect::<Vec<_>>().into(),
            _ => string(),
        };
        let (section, value) = match key.split_once('.') {
            Some((section, name)) => (section, Table::from_iter([(name.to_owned(), value)]).into()),
            None => (key, value),
        };
        self.add(&Table::from_iter([(section.to_owned(), value)]), origin);
    }

    fn add(&mut self, layer: &Table, origin: &str) {
        for (section, values) in layer {
            self.origins.insert(section.clone(), origin.to_owned());
            for (key, value) in values.as_table().into_iter().flatten() {
                self.origins.insert(format!("{section}.{key}"), origin.to_owned());
                if let Some(Value::Table(merged)) = self.merged.get_mut(section) {
                    merged.insert(key.clone(), value.clone());
                }
            }
        }
        self.compare_tables("", layer, &KNOWN);
    }

    fn compare_tables(&mut self, path: &str, given: &Table, known: &Table) {
        for (name, value) in given {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.get(name) {
                Some(known) => self.compare(&path, value, known),
                None => self.problem(&path, &unknown(&path, name, known)),
            }
        }
    }

    fn compare(&mut self, path: &str, given: &Value, known: &Value) {
        match (given, known) {
            (Value::Table(given), Value::Table(known)) => self.compare_tables(path, given, known),
            (Value::Array(given), Value::Array(known)) => {
                for (index, (given, known)) in given.iter().zip(known.iter().cycle()).enumerate() {
                    self.compare(&format!("{path}[{index}]"), given, known);
                }
            }
            _ if given.same_type(known) => {}
            _ => {
                let what = format!("expects {}, not {}", known.type_str(), given.type_str());
                self.problem(path, &what);
            }
        }
    }

    /// Only what somebody set has an origin, and only there an example helps.
    fn problem(&mut self, path: &str, what: &str) {
        let key = path.split('[').next().unwrap_or(path);
        let hint = self.origins.get(key).map(|origin| {
            let example = example(path).map(|line| format!(" (for example: {line})"));
            format!("{}; {origin}", example.unwrap_or_default())
        });
        self.problems.push(format!("{path}: {what}{}", hint.unwrap_or_default()));
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError(self.problems));
        }
        let config = serde_path_to_error::deserialize::<_, Config>(self.merged.clone());
        match &config {
            Ok(config) => {
                for (key, what) in validate::problems(config) {
                    self.problem(&key, &what);
                }
            }
            Err(error) => {
                let path = error.path().to_string();
                let what = match find(&self.merged, &path) {
                    // serde's words would be about u32.
                    Some(Value::Integer(value)) => format!("{value} is out of range"),
                    _ => error.inner().message().to_owned(),
                };
                self.problem(&path, &what);
            }
        }
        match config {
            Ok(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError(self.problems)),
        }
    }
}

/// What the reference has for a section's key; `None` for a section and for parts of a value.
fn known(key: &str) -> Option<&'static Value> {
    let (section, name) = key.split_once('.')?;
    KNOWN.get(section)?.get(name)
}

/// What stands at a path such as `login.service_keys[1].name`; of an array, the first item.
fn find<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let mut names = path.split('.').map(|name| name.split('[').next().unwrap_or(name));
    let section = table.get(names.next()?)?;
    names.try_fold(section, |value, name| {
        let first = value.as_array().and_then(|items| items.first());
        first.unwrap_or(value).get(name)
    })
}

fn example(path: &str) -> Option<String> {
    let name = path.rsplit('.').next()?.split('[').next()?;
    Some(match find(&KNOWN, path)? {
        Value::Table(_) => format!("[{name}]"),
        value => format!("{name} = {value}"),
    })
}

fn unknown(path: &str, name: &str, known: &Table) -> String {
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    if path == name {
        return format!("unknown key; the sections are {}", names.join(", "));
    }
    let likeness = |key: &&&str| strsim::jaro_winkler(name, key);
    let likely = names.iter().filter(|key| likeness(key) > 0.8);
    match likely.max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(key) => format!("unknown key; did you mean `{key}`?"),
        None => format!("unknown key; the keys are {}", names.join(", ")),
    }
}
