//! Colours by what they mean. `anstream` leaves them out of pipes and files, and wherever
//! `NO_COLOR` or `CLICOLOR` says so.

use anstyle::{AnsiColor, Style};

use crate::topology::Standing;

/// As the terminal writes.
pub const PLAIN: Style = Style::new();
/// What a reader looks for first: headings, the device a page is about.
pub const STRONG: Style = Style::new().bold();
/// What is there for completeness.
pub const FAINT: Style = Style::new().dimmed();
/// As it should be; free to be given away.
pub const GOOD: Style = coloured(AnsiColor::Green);
/// Worth a look; cannot be given away.
pub const WARNING: Style = coloured(AnsiColor::Yellow);
/// Wrong, or refused.
pub const BAD: Style = coloured(AnsiColor::Red).bold();
/// In the hands of a guest.
pub const GUEST: Style = coloured(AnsiColor::Cyan);

const fn coloured(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(anstyle::Color::Ansi(colour)))
}

/// How what can become of a device looks.
pub fn of(standing: &Standing) -> Style {
    match standing {
        Standing::Guest { .. } => GUEST,
        Standing::Ready | Standing::Free | Standing::Together { .. } => GOOD,
        Standing::Blocked { .. } => WARNING,
        Standing::Bridge => FAINT,
        Standing::Host { .. } => PLAIN,
    }
}
