//! Which device each claim of a guest had last, so that it has the same again: addresses that a guest
//! or its network knows stay the same over restarts and boots.
//!
//! What a guest had is taken last by others, so names that never come again would push devices aside
//! for ever: the latest [`KEPT`] claims are remembered, and those of a pool end with it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::State;
use super::store::{Table, Transaction};
use crate::choose::Previous;
use crate::failure::Failure;

const CHOICES: Table = Table::new("choices");

/// Most claims that are remembered; those that were not made for longest go first.
pub const KEPT: usize = 4096;
/// Seconds that a claim's time may be behind: a guest that starts every minute costs no write each.
const A_DAY: u64 = 86_400;

/// What a claim had, and when that was last so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    previous: Previous,
    /// In seconds since 1970; 0 where nobody wrote it down.
    #[serde(default)]
    at: u64,
}

impl Remembered {
    /// Whether this is what is to be remembered `now`, and recent: writing what is there already would
    /// cost the disk a write.
    fn says(&self, choice: &Previous, now: u64) -> bool {
        self.previous == *choice && now.saturating_sub(self.at) < A_DAY
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Guests and their claims have names without this.
fn key(previous: &Previous) -> String {
    format!("{}/{}", previous.guest, previous.claim)
}

impl State {
    /// What every claim of every guest had last, over all boots.
    pub fn choices(&self) -> Result<Vec<Previous>, Failure> {
        let all: Vec<Remembered> = self.all(CHOICES)?;
        Ok(all.into_iter().map(|one| one.previous).collect())
    }

    /// Remembers what a guest's claims have now.
    pub fn remember_choices(&self, choices: &[Previous]) -> Result<(), Failure> {
        if choices.is_empty() {
            return Ok(());
        }
        let known: Vec<Remembered> = self.all(CHOICES)?;
        let now = now();
        let is_known = |choice: &Previous| known.iter().any(|one| one.says(choice, now));
        if choices.iter().all(is_known) {
            return Ok(());
        }
        self.change(|state| state.remember_choices(choices))
    }
}

impl Transaction<'_> {
    /// Remembers what a guest's claims have now.
    pub fn remember_choices(&self, choices: &[Previous]) -> Result<(), Failure> {
        let now = now();
        let mut is_new = false;
        for choice in choices {
            let key = key(choice);
            let known = self.get::<Remembered>(CHOICES, &key)?;
            is_new |= known.is_none();
            if !known.is_some_and(|known| known.says(choice, now)) {
                self.put(CHOICES, &key, &Remembered { previous: choice.clone(), at: now })?;
            }
        }
        if is_new { self.forget_oldest_choices() } else { Ok(()) }
    }

    fn forget_oldest_choices(&self) -> Result<(), Failure> {
        let mut all: Vec<Remembered> = self.all(CHOICES)?;
        let too_many = all.len().saturating_sub(KEPT);
        all.sort_by_key(|one| one.at);
        all.iter().take(too_many).try_for_each(|old| self.remove(CHOICES, &key(&old.previous)))
    }

    /// Forgets what guests had of these pools.
    pub(super) fn forget_choices(&self, pools: &[&str]) -> Result<(), Failure> {
        if pools.is_empty() {
            return Ok(());
        }
        let all: Vec<Remembered> = self.all(CHOICES)?;
        let gone = all.iter().filter(|one| pools.contains(&one.previous.pool.as_str()));
        gone.map(|one| key(&one.previous)).try_for_each(|key| self.remove(CHOICES, &key))
    }
}
