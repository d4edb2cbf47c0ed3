//! Failures: one paragraph for people, one object for programs, both on standard error.

use std::io;

use serde::Serialize;

use super::{Format, output};
use crate::failure::Failure;

#[derive(Serialize)]
struct Wrapped<'a> {
    error: &'a Failure,
}

/// Tells why the command did not do what was asked.
pub fn print(failure: &Failure, format: Format) {
    let wrapped = Wrapped { error: failure };
    let text = match format {
        Format::Table => None,
        Format::Json => serde_json::to_string(&wrapped).ok(),
        Format::Yaml => serde_saphyr::to_string(&wrapped).ok(),
    };
    match text {
        Some(text) => anstream::eprintln!("{}", text.trim_end()),
        None => paragraph(failure),
    }
}

fn paragraph(failure: &Failure) {
    if let Some(documents) = &failure.documents {
        // Each error shows its line with a caret below, and knows itself what may be broken.
        match output::width(io::stderr()) {
            Some(width) => anstream::eprintln!("{}", documents.render(width.into())),
            None => anstream::eprintln!("{documents}"),
        }
        return;
    }
    let red = output::style::BAD;
    let text = output::text::paragraph(
        &format!("assign: {failure}"),
        output::width(io::stderr()).map_or(usize::MAX, usize::from),
    );
    match text.strip_prefix("assign:") {
        Some(rest) => anstream::eprintln!("{red}assign:{red:#}{rest}"),
        None => anstream::eprintln!("{text}"),
    }
}
