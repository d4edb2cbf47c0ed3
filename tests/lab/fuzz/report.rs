//! What libFuzzer says at the end of a run, and the lines about it: at most 80 columns.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Above the lines.
pub const HEAD: &str = "TARGET          EXECUTIONS  PER SECOND  CORPUS  OUTCOME";

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Inputs that were tried, those of the corpus too.
    pub executions: u64,
    /// The same in a second.
    pub per_second: u64,
    /// Inputs that reach something which no other one does, as of the end.
    pub corpus: u64,
}

impl Stats {
    /// Reads them from what libFuzzer prints with `-print_final_stats=1`. What it does not say is 0: it says
    /// nothing where it was killed.
    ///
    /// ```text
    /// #4096   DONE   cov: 12 ft: 13 corp: 6/24b lim: 43 exec/s: 2048 rss: 30Mb
    /// stat::number_of_executed_units: 4096
    /// stat::average_exec_per_sec:     2048
    /// ```
    pub fn parse(log: &str) -> Stats {
        let stat = |name: &str| {
            let mut values = log.lines().rev().filter_map(|line| {
                let value = line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':')?;
                value.trim().parse().ok()
            });
            values.next().unwrap_or(0)
        };
        let status = |line: &str| -> Option<u64> {
            let (_, rest) = line.strip_prefix('#')?.split_once("corp: ")?;
            rest.split_once('/')?.0.parse().ok()
        };
        Stats {
            executions: stat("number_of_executed_units"),
            per_second: stat("average_exec_per_sec"),
            corpus: log.lines().rev().find_map(status).unwrap_or(0),
        }
    }
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It took all inputs.
    Well,
    /// It failed on an input.
    Found {
        /// How: a crash, a hang, too much memory.
        what: &'static str,
        /// The file with it.
        input: Option<PathBuf>,
    },
    /// Somebody has stopped it.
    Interrupted,
    /// It did not run.
    Unknown,
}

impl Ending {
    /// Of a run that ended with `status`, said `log`, and left `input` behind.
    pub fn of(status: ExitStatus, log: &str, input: Option<&Path>) -> Ending {
        if status.success() {
            return Ending::Well;
        }
        // "==7== ERROR: libFuzzer: timeout after 10 seconds", or without ERROR where it was stopped.
        let said = log.lines().rev().find_map(|line| line.split_once("libFuzzer: "));
        let what = match said.map(|(_, what)| what) {
            Some(what) if what.starts_with("run interrupted") => return Ending::Interrupted,
            Some(what) if what.starts_with("timeout") => "hang",
            Some(what) if what.starts_with("out-of-memory") => "too much memory",
            Some(_) => "crash",
            None if input.is_some() => "crash",
            None => return Ending::Unknown,
        };
        Ending::Found { what, input: input.map(Path::to_owned) }
    }

    /// Whether something is to be mended.
    pub fn is_finding(&self) -> bool {
        matches!(self, Ending::Found { .. })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Well => "nothing found",
            Ending::Found { what, .. } => what,
            Ending::Interrupted => "stopped",
            Ending::Unknown => "did not run",
        })
    }
}

/// What is told of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of the target.
    pub name: String,
    /// What it came to.
    pub stats: Stats,
    /// How it ended.
    pub ending: Ending,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { name, stats, ending } = self;
        let (executions, per_second) = (grouped(stats.executions), grouped(stats.per_second));
        write!(f, "{name:<14}  {executions:>10}  {per_second:>10}  {:>6}  {ending}", stats.corpus)
    }
}

/// A number with commas: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The message of a panic in what a program printed, with the place.
pub fn panic(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("panicked at ")?;
    let (place, rest) = rest.split_once('\n')?;
    let message = rest.lines().next().unwrap_or_default().trim();
    Some(format!("{message} ({})", place.trim_end_matches(':')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const DONE: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        #2\tINITED cov: 5 ft: 5 corp: 1/1b exec/s: 0 rss: 28Mb\n\
        #4096\tDONE   cov: 12 ft: 13 corp: 1234/24b lim: 43 exec/s: 2048 rss: 30Mb\n\
        Done 4096 runs in 2 second(s)\n\
        stat::number_of_executed_units: 4096\n\
        stat::average_exec_per_sec:     2048\n\
        stat::new_units_added:          3\n\
        stat::slowest_unit_time_sec:    0\n\
        stat::peak_rss_mb:              30\n";
    const CRASH: &str = "#9\tNEW    cov: 9 ft: 9 corp: 3/9b lim: 4 exec/s: 0 rss: 30Mb L: 2/3 MS: 1\n\
        thread '<unnamed>' (7) panicked at src/text.rs:3:5:\nindex out of bounds\nnote: run\n\
        ==7== ERROR: libFuzzer: deadly signal\n\
        stat::number_of_executed_units: 77\n\
        stat::average_exec_per_sec:     0\n";

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn the_last_numbers_count() {
        let expected = Stats { executions: 4096, per_second: 2048, corpus: 1234 };
        assert_eq!(Stats::parse(DONE), expected);
        assert_eq!(
            Stats::parse(CRASH),
            Stats { executions: 77, per_second: 0, corpus: 3 },
            "a crash has statistics too"
        );
        assert_eq!(
            Stats::parse("#1\tcorp: \nstat::number_of_executed_units: x\n"),
            Stats::default()
        );
    }

    #[test]
    fn endings_are_told_apart() {
        let ending = |code, log: &str| Ending::of(exit(code), log, None).to_string();
        assert_eq!(ending(0, DONE), "nothing found");
        assert_eq!(ending(77, CRASH), "crash");
        assert_eq!(ending(70, "==7== ERROR: libFuzzer: timeout after 10 seconds\n"), "hang");
        let memory = "==7== ERROR: libFuzzer: out-of-memory (used: 600Mb; limit: 512Mb)\n";
        assert_eq!(ending(71, memory), "too much memory");
        assert_eq!(ending(72, "==7== libFuzzer: run interrupted; exiting\n"), "stopped");
        assert_eq!(ending(1, "ERROR: The required directory does not exist\n"), "did not run");
        // Where its standard error was closed, or it was killed.
        let input = Path::new("found/text/crash-1");
        let killed = Ending::of(ExitStatus::from_raw(9), "", Some(input));
        assert_eq!(killed, Ending::Found { what: "crash", input: Some(input.to_owned()) });
        assert!(killed.is_finding() && !Ending::Well.is_finding());
    }

    #[test]
    fn lines_are_beside_their_head_and_fit() {
        let stats = Stats { executions: 10_000_000, per_second: 123_456, corpus: 1234 };
        let ending = Ending::Found { what: "too much memory", input: None };
        let line = Line { name: "config_space".into(), stats, ending }.to_string();
        assert_eq!(
            format!("{HEAD}\n{line}"),
            "TARGET          EXECUTIONS  PER SECOND  CORPUS  OUTCOME\n\
             config_space    10,000,000     123,456    1234  too much memory"
        );
        assert!(line.len() <= 80);
    }

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn a_panic_is_said_in_a_line() {
        assert_eq!(panic(CRASH).as_deref(), Some("index out of bounds (src/text.rs:3:5)"));
        assert_eq!(panic(DONE), None);
    }
}
