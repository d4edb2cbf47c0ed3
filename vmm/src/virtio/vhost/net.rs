//! virtio-net whose frames the kernel moves (vhost-net), between the guest's rings and the TAP.
//!
//! The offloads of checksums and of segmentation are between the guest and whoever receives its frames:
//! TAP and vhost hand on what stands in each frame's header. Commands of a driver come to the event loop.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::pairs::Pairs;
use super::sys::{Tap, Vhost};
use super::{Engine, Queues};
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::machine::memory::GuestMemory;
use crate::pci::vector::Source;
use crate::virtio::net::taps::Taps;
use crate::virtio::net::{CLASS_ETHERNET, Config, KIND_NET, control, feature, queue_sizes};
use crate::virtio::queue::{self, Queue};
use crate::virtio::{Activation, VirtioDevice};

/// A network card that the kernel serves.
pub struct KernelNet {
    config: Arc<Config>,
    taps: Arc<Taps>,
    sizes: Vec<u16>,
    pub(in crate::virtio) queues: Arc<Queues>,
    /// For commands.
    kick: EventFd,
    commands: Mutex<Commands>,
}

/// The queue for commands, while a driver has one.
#[derive(Default)]
struct Commands {
    active: Option<Activation>,
    /// Pairs whose queues the driver has set up.
    ready: usize,
}

impl KernelNet {
    /// A card on the descriptors of a TAP, each served through an open `/dev/vhost-net` of `vhosts`, which
    /// reach `memory`.
    ///
    /// # Errors
    /// Where the descriptors are not what they should be, or the kernel lacks virtio 1.0.
    pub fn new(
        taps: Vec<OwnedFd>,
        vhosts: Vec<OwnedFd>,
        config: Arc<Config>,
        memory: &GuestMemory,
    ) -> Result<Self> {
        let taps = Arc::new(Taps::new(taps)?);
        let pairs = vhosts
            .into_iter()
            .enumerate()
            .map(|(pair, vhost)| Vhost::new(vhost, memory, Tap { taps: taps.clone(), pair }));
        let engine = Pairs::new(pairs.collect::<Result<_>>()?);
        KernelNet::over(Box::new(engine), taps, config)
    }

    /// A card that is served by `engine`.
    pub(in crate::virtio) fn over(
        engine: Box<dyn Engine>,
        taps: Arc<Taps>,
        config: Arc<Config>,
    ) -> Result<Self> {
        let count = 2 * usize::from(config.pairs());
        let queues = Queues::new(engine, count, feature::MRG_RXBUF, config.name())?;
        let kick = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
        let (sizes, queues) = (queue_sizes(config.pairs()), Arc::new(queues));
        Ok(KernelNet { config, taps, sizes, queues, kick, commands: Mutex::default() })
    }

    /// Adds its descriptors to the event loop.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        events.add(borrow(&self.kick), Trigger::Level, self.clone(), 0)?;
        self.queues.listen(events)
    }

    fn pairs(&self) -> usize {
        self.config.pairs().into()
    }

    /// Takes what is not the kernel's out of `activation`: queues that were not agreed on, and that for
    /// commands.
    fn split(&self, activation: &mut Activation) -> Commands {
        if activation.features & feature::MQ == 0 {
            activation.queues.truncate(2);
            return Commands::default();
        }
        let ready = control::ready_pairs(&activation.queues, self.pairs());
        let queues = activation.queues.split_off(2 * self.pairs());
        let interrupts = activation.interrupts.split_off(2 * self.pairs());
        let Activation { features, changed, memory, failure, .. } = &*activation;
        let active = queues.first().is_some_and(Queue::is_ready).then(|| Activation {
            features: *features,
            queues,
            interrupts,
            changed: changed.clone(),
            memory: memory.clone(),
            failure: failure.clone(),
        });
        Commands { active, ready }
    }
}

impl Ready for KernelNet {
    /// The driver has a command.
    fn ready(&self, _token: u32) {
        let _ = self.kick.read();
        let Commands { active, ready } = &mut *crate::lock(&self.commands);
        queue::turn(active, &self.kick, |active| {
            control::obey(active, 0, *ready, |pairs| {
                let done = self.taps.use_first(pairs);
                done.map_err(|error| self.queues.warn(error)).is_ok()
            })
        });
    }
}

impl VirtioDevice for KernelNet {
    fn name(&self) -> String {
        self.config.name()
    }

    fn kind(&self) -> u16 {
        KIND_NET
    }

    fn class(&self) -> u32 {
        CLASS_ETHERNET
    }

    fn features(&self) -> u64 {
        let own = feature::MAC | feature::STATUS | feature::OFFLOADS;
        own | feature::of_pairs(self.config.pairs()) | self.queues.features()
    }

    fn accepts(&self, features: u64) -> bool {
        feature::go_together(features)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        match usize::from(index).checked_sub(2 * self.pairs()) {
            None => self.queues.kick(index),
            Some(0) if self.pairs() > 1 => Some(&self.kick),
            Some(_) => None,
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_generation(&self) -> u8 {
        self.config.generation()
    }

    /// All but the first pair.
    fn may_lack(&self, index: usize) -> bool {
        index >= 2
    }

    fn source(&self) -> Box<dyn Source> {
        self.queues.source()
    }

    fn is_counted(&self) -> bool {
        false
    }

    fn activate(&self, mut activation: Activation) {
        let hears = activation.features & feature::STATUS != 0;
        self.config.tells(hears.then(|| activation.changed.clone()));
        *crate::lock(&self.commands) = self.split(&mut activation);
        if !self.taps.are_gone() {
            self.queues.start(activation);
        }
        // Else the kernel takes no queue for it, and to its driver the card is one whose link is down.
        // Commands may be there already.
        let _ = self.kick.write(1);
    }

    fn reset(&self) {
        self.config.tells(None);
        *crate::lock(&self.commands) = Commands::default();
        self.queues.stop();
        if let Err(error) = self.taps.use_first(1)
            && !self.taps.are_gone()
        {
            self.queues.warn(error);
        }
    }
}
