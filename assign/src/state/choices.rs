//! Which device each claim of a guest had last, so that it has the same again: addresses that a guest
//! or its network knows stay the same over restarts and boots.

use super::State;
use super::store::{Table, Transaction};
use crate::choose::Previous;
use crate::failure::Failure;

const CHOICES: Table = Table::new("choices");

/// Guests and their claims have names without this.
fn key(previous: &Previous) -> String {
    format!("{}/{}", previous.guest, previous.claim)
}

impl State {
    /// What every claim of every guest had last, over all boots.
    pub fn choices(&self) -> Result<Vec<Previous>, Failure> {
        self.all(CHOICES)
    }

    /// Remembers what a guest's claims have now.
    pub fn remember_choices(&self, choices: &[Previous]) -> Result<(), Failure> {
        match choices {
            [] => Ok(()),
            _ => self.change(|state| state.remember_choices(choices)),
        }
    }
}

impl Transaction<'_> {
    /// Remembers what a guest's claims have now.
    pub fn remember_choices(&self, choices: &[Previous]) -> Result<(), Failure> {
        for choice in choices {
            let key = key(choice);
            // Writing what is there already would cost the disk a write.
            if self.get::<Previous>(CHOICES, &key)?.as_ref() != Some(choice) {
                self.put(CHOICES, &key, choice)?;
            }
        }
        Ok(())
    }
}
