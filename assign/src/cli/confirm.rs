//! The question before something that somebody may notice.

use std::io::{self, BufRead, IsTerminal, Write};

use super::Context;
use crate::failure::{Failure, OwnReason};

/// Asks on a terminal; `--yes` answers beforehand.
///
/// # Errors
/// The answer is no, or there is nobody to ask.
pub fn ask(context: &Context, thing: &str, what: &str) -> Result<(), Failure> {
    if context.yes {
        return Ok(());
    }
    let refuse = |message: String, remedy: &str| {
        Err(Failure::refused(OwnReason::NotConfirmed, thing, message).with_remedy(remedy))
    };
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let message = format!("this would {what}, and there is no terminal to ask on");
        return refuse(message, "Give --yes to do it.");
    }
    anstream::eprint!("{thing}: this would {what}. Go on? [y/N] ");
    io::stderr().flush().ok();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).ok();
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => refuse(format!("this would {what}, and the answer was no"), "Nothing was changed."),
    }
}
