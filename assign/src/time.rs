//! The time of an event: UTC for programs, the clock on the wall for people.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// As RFC 3339 has it, in UTC and to the millisecond: `2026-03-01T18:54:25.123Z`.
pub fn utc(time: SystemTime) -> String {
    let (seconds, milliseconds) = since_epoch(time);
    let (year, month, day) = date(seconds / DAY);
    format!("{year:04}-{month:02}-{day:02}T{}Z", clock(seconds % DAY, milliseconds))
}

/// The day in UTC: `2026-03-01`.
pub fn day(time: SystemTime) -> String {
    let (year, month, day) = date(since_epoch(time).0 / DAY);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The time of day where this host is, or in UTC if it does not know where that is.
pub fn of_day(time: SystemTime) -> String {
    let (seconds, milliseconds) = since_epoch(time);
    let local = libc::time_t::try_from(seconds).ok().and_then(|seconds| {
        let mut parts = MaybeUninit::<libc::tm>::uninit();
        // SAFETY: reads `seconds`, and fills `parts` unless it answers null; it keeps neither. It
        // reads TZ in the environment, which this program, with one thread, does not change.
        let filled = unsafe { libc::localtime_r(&seconds, parts.as_mut_ptr()) };
        // SAFETY: not null, so it was filled.
        (!filled.is_null()).then(|| unsafe { parts.assume_init() })
    });
    let part = |number: libc::c_int| u64::try_from(number).unwrap_or(0);
    let of_day = local.map(|tm| part(tm.tm_hour) * 3600 + part(tm.tm_min) * 60 + part(tm.tm_sec));
    clock(of_day.unwrap_or(seconds % DAY), milliseconds)
}

/// A clock set before 1970 is wrong, and shown as 1970.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_millis())
}

fn clock(of_day: u64, milliseconds: u32) -> String {
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{milliseconds:03}")
}

/// Year, month and day from days since 1970, in the Gregorian calendar, which repeats itself every
/// 400 years. Years are taken to begin in March, so that the leap day is their last.
fn date(days: u64) -> (u64, u64, u64) {
    const YEARS_400: u64 = 146_097;
    // 719,468 days lie between March 1 of the year 0 and 1970.
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days / YEARS_400, days % YEARS_400);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writes_known_times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let day = of_day(UNIX_EPOCH + Duration::from_millis(1_735_689_599_042));
        assert!(day.ends_with(":59.042"), "{day}");
    }
}
