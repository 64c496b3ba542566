//! The file of results: what its sections have in common.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// The median, and between what it lies.
pub struct Spread {
    pub low: f64,
    pub median: f64,
    high: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (half, last) = (values.len() / 2, values.len() - 1);
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Self { low: values[0], median, high: values[last] }
    }

    pub fn show(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    }

    pub fn thousands(&self) -> String {
        let [low, median, high] = [self.low, self.median, self.high].map(thousands);
        format!("{median} ({low}–{high})")
    }
}

/// A whole number, with commas.
pub fn thousands(value: f64) -> String {
    let mut digits = format!("{value:.0}");
    let mut place = digits.len();
    while place > 3 {
        place -= 3;
        digits.insert(place, ',');
    }
    digits
}

/// Replaces the section of this name in a file, or adds it.
pub fn write(file: &Path, name: &str, section: &str) -> Result<()> {
    let old = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other?,
    };
    fs::write(file, replace(&old, name, section))
        .with_context(|| format!("{} cannot be written", file.display()))
}

/// When and on what.
pub fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let redis = say("redis-server", &["--version"])?;
    let redis = redis.split(' ').find_map(|word| word.strip_prefix("v="));
    Ok(format!(
        "{}, {} cores of {}, Linux {}, redis-server {}",
        say("date", &["-u", "+%F"])?,
        std::thread::available_parallelism()?,
        model.map_or("an unnamed processor", |(_, name)| name),
        kernel.trim(),
        redis.unwrap_or("unknown"),
    ))
}

/// What a program prints.
pub fn say(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("{program} does not start"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The text with this section in the place of the old one, or at the end.
fn replace(text: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let section = format!("{begin}\n{section}{end}");
    let old = || {
        let (before, rest) = text.split_once(&begin)?;
        Some((before, rest.split_once(&end)?.1))
    };
    match old() {
        Some((before, after)) => format!("{before}{section}{after}"),
        None if text.is_empty() => format!("{section}\n"),
        None => format!("{}\n\n{section}\n", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_or_appended() {
        assert_eq!(replace("", "http", "x\n"), "<!-- http -->\nx\n<!-- /http -->\n");
        let first = replace("# Results\n", "http", "x\n");
        assert_eq!(first, "# Results\n\n<!-- http -->\nx\n<!-- /http -->\n");
        let more = format!("{first}\nmore\n");
        assert_eq!(replace(&more, "http", "y\n"), more.replace("x\n", "y\n"));
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()).show(1), "2.0 (1.0–3.0)");
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).show(1), "2.5 (1.0–4.0)");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(999.0), "999");
    }
}
