//! `assign balloon`: says how much of its memory a running guest is to keep.

use clap::Args;

use super::page::bytes;
use super::{Context, Format, output};
use crate::control::route::Route;
use crate::control::{Balloon as Wanted, Ballooned, Running, client};
use crate::failure::Failure;

/// Arguments of `assign balloon`.
#[derive(Debug, Args)]
pub struct Balloon {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
    /// How much memory the guest is to keep, such as 512MiB or 2GiB, or `all`.
    #[arg(value_name = "SIZE", value_parser = keep)]
    keep: Keep,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    Bytes(u64),
}

fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "all" => Ok(Keep::All),
        _ => policies::parse_size(text)
            .map(Keep::Bytes)
            .ok_or_else(|| "a whole number with MiB or GiB, such as 512MiB, or all".to_owned()),
    }
}

impl Balloon {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let root = &context.root;
        let keep_bytes = match self.keep {
            Keep::Bytes(bytes) => bytes,
            Keep::All => {
                let running: Running = client::ask(root, &self.guest, Route::State, None::<&()>)?;
                running.memory_bytes
            }
        };
        let wanted = Wanted { keep_bytes };
        let asked: Ballooned = client::ask(root, &self.guest, Route::Balloon, Some(&wanted))?;
        output::value(context.format, &asked)?;
        if context.format == Format::Table {
            output::text_out(&self.told(&asked))?;
        }
        Ok(0)
    }

    fn told(&self, asked: &Ballooned) -> String {
        let guest = &self.guest;
        let what = match asked.target_bytes {
            0 => format!("keep all of its {}", bytes(asked.keep_bytes)),
            target => format!("keep {} and give {} back", bytes(asked.keep_bytes), bytes(target)),
        };
        if !asked.driven {
            return format!(
                "{guest} is to {what}, and does once it has a driver for that: virtio_balloon in Linux"
            );
        }
        let given = bytes(asked.given_bytes);
        format!("{guest} is to {what}; so far it has given {given} (`assign stats {guest}`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_documents() {
        assert_eq!(keep("512MiB"), Ok(Keep::Bytes(512 << 20)));
        assert_eq!((keep("2 GiB"), keep("all")), (Ok(Keep::Bytes(2 << 30)), Ok(Keep::All)));
        for wrong in
            ["", "512", "512MB", "-1MiB", "0x1MiB", "99999999999999999999GiB", "17179869184GiB"]
        {
            keep(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn what_a_guest_was_asked_is_told_with_what_it_has_done() {
        let balloon = Balloon { guest: "web-1".to_owned(), keep: Keep::All };
        let told = |target_bytes, driven| {
            let keep_bytes = (512 << 20) - target_bytes;
            balloon.told(&Ballooned { keep_bytes, target_bytes, given_bytes: 1 << 20, driven })
        };
        let gives = "web-1 is to keep 384 MiB and give 128 MiB back";
        assert_eq!(
            told(128 << 20, true),
            format!("{gives}; so far it has given 1 MiB (`assign stats web-1`)")
        );
        assert!(
            told(128 << 20, false).starts_with(&format!("{gives}, and does once it has a driver"))
        );
        assert!(told(0, true).starts_with("web-1 is to keep all of its 512 MiB; so far"));
    }
}
