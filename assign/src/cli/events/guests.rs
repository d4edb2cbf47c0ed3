//! `assign events --guests`: what happens to guests, as their launchers write it down.

use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::{End, Events, Ready, ready, unfollowable};
use crate::cli::{Context, Format, output};
use crate::failure::{Failure, OwnReason};
use crate::history::follow::{Begin, Follower, Line, Lost, News, Record};
use crate::signals::Signals;
use crate::time;
use crate::visible::visible;

/// Width of the column of kinds.
const KIND: usize = 14;

/// What is said of following itself.
#[derive(Debug, Serialize)]
struct Notice<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'a str>,
    kind: &'static str,
    message: &'a str,
}

impl Events {
    /// Tells of guests what was asked for.
    pub(super) fn run_guests(&self, context: &Context) -> Result<u8, Failure> {
        // Before anything else, so that Ctrl-C is an ordinary end at any time.
        let signals = Signals::hold().map_err(|error| unfollowable(&error))?;
        let begin = if self.past || self.initial { Begin::AtStart } else { Begin::AtEnd };
        let only = self.guest.as_deref();
        let mut follower = Follower::open(context.state.guests(), only, begin)?;
        let mut teller = Teller { format: context.format, open: true };
        if begin == Begin::AtStart {
            let news = follower.take_all()?;
            if let (true, true, Some(guest)) = (self.past, news.lines.is_empty(), only) {
                let place = context.state.guests();
                let message = "nothing is written down of a guest of this name";
                return Err(Failure::bad_input(OwnReason::NoSuchGuest, guest, message)
                    .with_remedy(format!("It would be below {}.", place.display())));
            }
            teller.tell(&news, &mut None)?;
        }
        if self.past {
            return Ok(0);
        }
        teller.say(None, "following", "what happens to guests")?;
        let mut left = self.count;
        match self.follow_guests(&mut follower, &signals, &mut teller, &mut left)? {
            End::Asked | End::Enough => Ok(0),
            End::TimeOver => self.at_the_end("events of guests", left),
        }
    }

    /// Tells what comes until something ends it; `left` counts down.
    fn follow_guests(
        &self,
        follower: &mut Follower,
        signals: &Signals,
        teller: &mut Teller,
        left: &mut Option<u64>,
    ) -> Result<End, Failure> {
        let end = self.limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if *left == Some(0) {
                return Ok(End::Enough);
            }
            if !teller.open {
                return Ok(End::Asked);
            }
            let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
            let ready = ready(follower, None, signals, rest);
            match ready.map_err(|error| unfollowable(&error))? {
                Ready::Signal if signals.came() => return Ok(End::Asked),
                Ready::ReaderGone => return Ok(End::Asked),
                Ready::TimeOver => return Ok(End::TimeOver),
                Ready::Events => teller.tell(&follower.take()?, left)?,
                Ready::Signal | Ready::Faults => {}
            }
        }
    }
}

/// Writes events.
struct Teller {
    format: Format,
    /// Whether somebody still reads.
    open: bool,
}

impl Teller {
    /// As many as are `left` to be told, where they are counted.
    fn tell(&mut self, news: &News, left: &mut Option<u64>) -> Result<(), Failure> {
        for Lost { guest, message } in &news.lost {
            self.say(Some(guest), "events-lost", message)?;
        }
        for line in &news.lines {
            if !self.open || *left == Some(0) {
                break;
            }
            self.write(line)?;
            *left = left.map(|left| left.saturating_sub(1));
        }
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => {
                let Record { time, kind, message, .. } = &line.record;
                text(time, kind, message)
            }
            // As it was written, whatever a later version wrote.
            Format::Json => line.json.clone(),
            Format::Yaml => {
                let value: serde_json::Value =
                    serde_json::from_str(&line.json).map_err(|error| output::unwritable(&error))?;
                yaml(&value)?
            }
        };
        self.open &= output::line_out(&text)?;
        Ok(())
    }

    /// Something about following itself, which is not counted.
    fn say(
        &mut self,
        guest: Option<&str>,
        kind: &'static str,
        message: &str,
    ) -> Result<(), Failure> {
        let notice = Notice { time: time::utc(SystemTime::now()), guest, kind, message };
        let text = match self.format {
            Format::Table => text(&notice.time, kind, message),
            Format::Json => {
                serde_json::to_string(&notice).map_err(|error| output::unwritable(&error))?
            }
            Format::Yaml => yaml(&notice)?,
        };
        self.open &= output::line_out(&text)?;
        Ok(())
    }
}

fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|error| output::unwritable(&error))?;
    Ok(format!("---\n{}", text.trim_end()))
}

/// A line for people. What was long ago has a day too, so the time is as in events.log.
fn text(time: &str, kind: &str, message: &str) -> String {
    visible(&format!("{time}  {kind:KIND$}  {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_kind_and_message_and_cannot_move_the_cursor() {
        let message = "web-1: powered off\u{1b}[2J\nweb-2: runs";
        assert_eq!(
            text("2026-03-01T18:54:25.123Z", "ended", message),
            "2026-03-01T18:54:25.123Z  ended           web-1: powered off\u{fffd}[2J\u{fffd}web-2: \
             runs"
        );
    }
}
