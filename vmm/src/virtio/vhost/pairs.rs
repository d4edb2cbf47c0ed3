//! A card of several pairs of queues: of vhost-net one device each, which knows of one pair only.

use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use super::Engine;
use super::sys::{Rings, Tap, Vhost};
use crate::error::{Error, Result};

/// Queues of a pair.
const PAIR: u32 = 2;

/// The devices, in the order of their pairs.
pub struct Pairs {
    pairs: Vec<Vhost<Tap>>,
    /// The queues that the driver has set up: it may do without some.
    set: Mutex<Vec<u32>>,
}

impl Pairs {
    /// These, of a card with as many pairs.
    pub fn new(pairs: Vec<Vhost<Tap>>) -> Pairs {
        Pairs { pairs, set: Mutex::default() }
    }

    /// The device that has queue `index`, and which one it is there.
    fn of(&self, index: u32) -> Result<(&Vhost<Tap>, u32)> {
        let pair = self.pairs.get((index / PAIR) as usize);
        let none = || Error::Spec(format!("there is no queue {index}"));
        Ok((pair.ok_or_else(none)?, index % PAIR))
    }
}

impl Engine for Pairs {
    fn features(&self) -> Result<u64> {
        self.pairs.iter().try_fold(u64::MAX, |all, pair| Ok(all & pair.features()?))
    }

    fn set_features(&self, own: u64, all: u64) -> Result<()> {
        self.pairs.iter().try_for_each(|pair| pair.set_features(own, all))
    }

    fn set_queue(&self, index: u32, rings: &Rings, kick: &EventFd, broken: &EventFd) -> Result<()> {
        let (pair, at) = self.of(index)?;
        pair.set_queue(at, rings, kick, broken)?;
        crate::lock(&self.set).push(index);
        Ok(())
    }

    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        let (pair, at) = self.of(index)?;
        pair.set_call(at, call)
    }

    fn set_running(&self, runs: bool) -> Result<()> {
        let mut set = crate::lock(&self.set);
        let both = |first: u32| [first, first + 1].iter().all(|index| set.contains(index));
        let wanted = (0..).step_by(PAIR as usize).zip(&self.pairs);
        let wanted = wanted.filter(|(first, _)| !runs || both(*first));
        // None is left out because another failed.
        let done = wanted.map(|(_, pair)| pair.set_running(runs)).fold(Ok(()), Result::and);
        if !runs {
            set.clear();
        }
        done
    }
}
