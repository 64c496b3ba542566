//! What was measured, as a table and as a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use compare::load::Open;
use compare::results::{self, Spread, machine, say, thousands};

/// One measurement of a contender at full speed. Times are microseconds a request.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) server: f64,
    pub(crate) redis: f64,
    /// Redis commands a request.
    pub(crate) commands: f64,
    /// Redis scripts in 10,000 requests, beyond those of a gateway that nobody asks.
    pub(crate) scripts: f64,
}

impl Effort {
    fn both(self) -> f64 {
        self.server + self.redis
    }
}

/// A contender with its measurements, one a round.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) efforts: Vec<Effort>,
    pub(crate) paces: Vec<Open>,
}

/// What all of them are measured against.
pub(crate) const BASE: &str = "axum, empty";
pub(crate) const GATEHOUSE: &str = "Gatehouse";

pub(crate) struct Report<'a> {
    pub(crate) entries: &'a [Entry],
    pub(crate) rate: u32,
    /// What made it.
    pub(crate) command: String,
}

impl Report<'_> {
    /// Replaces this report in a file, or adds it, and draws the picture beside it.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let picture = file.with_file_name("http.svg");
        fs::write(&picture, self.picture()?)
            .with_context(|| format!("{} cannot be written", picture.display()))?;
        results::write(file, "http", &self.section()?)
    }

    fn section(&self) -> Result<String> {
        let mut text = format!(
            "## A check over HTTP\n\n{}, Node {}.\n\n```sh\n{}\n```\n\n\
             Medians, and in brackets the lowest and highest round.\n\n\
             | | requests/s | CPU µs/request: server | Redis | both | both, × {BASE} | \
             Redis commands/request |\n|---|--:|--:|--:|--:|--:|--:|\n",
            machine()?,
            say("node", &["--version"])?.trim_start_matches('v'),
            self.command,
        );
        let base = self.entries.iter().find(|entry| entry.name == BASE);
        let base = base.context("the base was not measured")?;
        for entry in self.entries {
            let spread = |value: fn(Effort) -> f64| {
                Spread::of(entry.efforts.iter().map(|effort| value(*effort)))
            };
            // Of one round each: the machine was about as fast for both.
            let ratio = entry.efforts.iter().zip(&base.efforts);
            let ratio = Spread::of(ratio.map(|(own, base)| own.both() / base.both()));
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.2} |",
                entry.name,
                spread(|effort| effort.rate).thousands(),
                spread(|effort| effort.server).show(1),
                spread(|effort| effort.redis).show(1),
                spread(Effort::both).show(1),
                ratio.show(2),
                spread(|effort| effort.commands).median,
            )?;
        }
        let gatehouse = self.entries.iter().find(|entry| entry.name == GATEHOUSE);
        let gatehouse = gatehouse.context("Gatehouse was not measured")?;
        let scripts = Spread::of(gatehouse.efforts.iter().map(|effort| effort.scripts));
        writeln!(
            text,
            "\n10,000 checks of {GATEHOUSE} send {} scripts to Redis beyond what two gateways send \
             when nobody asks them (heartbeats, and the times of last activity).\n\n\
             ![CPU time of a check](http.svg)\n\n\
             Latency in milliseconds at {} requests a second:\n\n\
             | | p50 | p99 | p99.9 |\n|---|--:|--:|--:|",
            scripts.show(2),
            thousands(f64::from(self.rate)),
        )?;
        for entry in self.entries {
            let reached = Spread::of(entry.paces.iter().map(|pace| pace.rate));
            if reached.low < 0.99 * f64::from(self.rate) {
                let reached = reached.thousands();
                writeln!(text, "| {} | not sustained: {reached}/s | | |", entry.name)?;
                continue;
            }
            let at = |place: usize| {
                Spread::of(entry.paces.iter().map(|pace| pace.latency[place])).show(2)
            };
            writeln!(text, "| {} | {} | {} | {} |", entry.name, at(0), at(1), at(2))?;
        }
        text.push_str(METHOD);
        Ok(text)
    }

    fn picture(&self) -> Result<String> {
        const LEFT: f64 = 210.0;
        const LENGTH: f64 = 400.0;
        const ROW: f64 = 34.0;
        let bars: Vec<(&str, f64, f64)> = self
            .entries
            .iter()
            .map(|entry| {
                let median =
                    |value: fn(&Effort) -> f64| Spread::of(entry.efforts.iter().map(value)).median;
                (entry.name, median(|effort| effort.server), median(|effort| effort.redis))
            })
            .collect();
        let most = bars.iter().map(|(_, server, redis)| server + redis).fold(1.0, f64::max);
        let height = 84.0 + ROW * bars.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
             viewBox=\"0 0 760 {height}\" font-family=\"Helvetica, Arial, sans-serif\" \
             font-size=\"13\" fill=\"#1a1a1a\">\n\
             <title>CPU time of a check</title>\n\
             <rect width=\"760\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"bold\">CPU time of a check, µs \
             (less is better)</text>\n\
             <rect x=\"{LEFT}\" y=\"43\" width=\"12\" height=\"12\" fill=\"#2563a8\"/>\n\
             <text x=\"{}\" y=\"54\">server</text>\n\
             <rect x=\"{}\" y=\"43\" width=\"12\" height=\"12\" fill=\"#d9822b\"/>\n\
             <text x=\"{}\" y=\"54\">Redis</text>\n",
            LEFT + 18.0,
            LEFT + 80.0,
            LEFT + 98.0,
        );
        let mut top = 70.0;
        for (name, server, redis) in bars {
            let (first, second) = (server / most * LENGTH, redis / most * LENGTH);
            let text = top + 16.0;
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{top}\" width=\"{first:.1}\" height=\"22\" fill=\"#2563a8\"/>\n\
                 <rect x=\"{:.1}\" y=\"{top}\" width=\"{second:.1}\" height=\"22\" fill=\"#d9822b\"/>\n\
                 <text x=\"{:.1}\" y=\"{text}\">{}</text>",
                LEFT - 10.0,
                LEFT + first,
                LEFT + first + second + 8.0,
                // Less than is shown, and for most of them nothing at all.
                if redis < 0.05 {
                    format!("{server:.1}")
                } else {
                    format!("{server:.1} + {redis:.1}")
                },
            )?;
            top += ROW;
        }
        svg += "</svg>\n";
        Ok(svg)
    }
}

/// What has to be known to read the figures.
const METHOD: &str = "
Everything runs on this one machine, load generators included, so requests/s say what was left over \
for a server and CPU time is what to compare: `utime` and `stime` of the server and of Redis around \
each measurement, the contenders in turn, 64 connections of wrk asking for 64 of 1,000 sessions, and \
what Redis does for idle gateways counted for Gatehouse only. For latency 32 connections send at \
fixed times, and an answer counts from when its request was due, so that waiting behind a slow one \
is part of it.

tower-sessions saves a session only when it was modified, so that a check is one GET; connect-redis \
also moves the expiry each time. Commands inside scripts count as commands. \"Empty\" answers with \
the same headers without having looked at anything.
";
