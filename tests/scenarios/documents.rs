//! The documents scenarios write into their hosts.

use std::fmt;

/// A policy with one pool `lan` of eth0's first VFs.
pub fn policy(vfs: u16) -> String {
    format!(
        "apiVersion: assign/v1\n\
         kind: Policy\n\
         metadata: {{name: edge}}\n\
         spec:\n  \
           pools:\n    \
             - name: lan\n      \
               from: {{interface: eth0}}\n      \
               vfs: {{count: {vfs}}}\n      \
               driver: vfio-pci\n      \
               network: {{mac: derive}}\n"
    )
}

/// A policy of pools of whole devices: names, and what belongs to each.
pub fn cards(pools: &[(&str, &str)]) -> String {
    let pool = |(name, devices): &(&str, &str)| {
        format!("    - {{name: {name}, devices: {{{devices}}}}}\n")
    };
    let pools: String = pools.iter().map(pool).collect();
    format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: cards}}\nspec:\n  pools:\n{pools}"
    )
}

/// A guest of the lab's own image.
pub struct Guest {
    name: &'static str,
    verb: &'static str,
    cpus: String,
    memory: &'static str,
    kernel: &'static str,
    initrd: &'static str,
    disks: String,
    networks: String,
    rng: bool,
    virtio: &'static str,
    vsock: &'static str,
    ports: &'static str,
    limits: &'static str,
}

impl Guest {
    /// Without any network; see the guest's init script for verbs.
    pub fn new(name: &'static str, verb: &'static str) -> Self {
        let cpus = "{count: 1}".to_owned();
        let (disks, networks) = (String::new(), String::new());
        Guest {
            name,
            verb,
            cpus,
            memory: "{size: 256MiB}",
            kernel: "/boot/vmlinuz",
            initrd: "/boot/guest.cpio",
            disks,
            networks,
            rng: false,
            virtio: "",
            vsock: "",
            ports: "",
            limits: "",
        }
    }

    /// With this many CPUs.
    pub fn cpus(self, count: u8) -> Self {
        self.cpus_as(&format!("{{count: {count}}}"))
    }

    /// With CPUs as this says.
    pub fn cpus_as(mut self, cpus: &str) -> Self {
        cpus.clone_into(&mut self.cpus);
        self
    }

    /// With memory as this says.
    pub fn memory(mut self, memory: &'static str) -> Self {
        self.memory = memory;
        self
    }

    /// With this kernel image.
    pub fn kernel(mut self, path: &'static str) -> Self {
        self.kernel = path;
        self
    }

    /// With this initial RAM disk.
    pub fn initrd(mut self, path: &'static str) -> Self {
        self.initrd = path;
        self
    }

    /// With a disk, as a document describes it.
    pub fn disk(mut self, described: &str) -> Self {
        self.disks += &format!("    - {{{described}}}\n");
        self
    }

    /// With a source of random numbers.
    pub fn rng(mut self) -> Self {
        self.rng = true;
        self
    }

    /// With virtio devices as this says, a mapping.
    pub fn virtio(mut self, described: &'static str) -> Self {
        self.virtio = described;
        self
    }

    /// With sockets between it and its host, as a document describes them.
    pub fn vsock(mut self, described: &'static str) -> Self {
        self.vsock = described;
        self
    }

    /// With these ports, a list.
    pub fn ports(mut self, ports: &'static str) -> Self {
        self.ports = ports;
        self
    }

    /// With these limits, a mapping.
    pub fn limits(mut self, limits: &'static str) -> Self {
        self.limits = limits;
        self
    }

    /// With a network that claims a VF of the pool `lan`.
    pub fn claim(mut self) -> Self {
        self.networks += "    - {name: net0, claim: {pool: lan}}\n";
        self
    }

    /// With another network of this name that claims one too.
    pub fn claim_as(mut self, name: &str) -> Self {
        self.networks += &format!("    - {{name: {name}, claim: {{pool: lan}}}}\n");
        self
    }

    /// With a virtio network on br0.
    pub fn bridge(mut self) -> Self {
        self.networks += "    - {name: service, virtio: {bridge: br0}}\n";
        self
    }

    /// With a virtio network that is connected to this.
    pub fn connected_to(mut self, end: &str) -> Self {
        self.networks += &format!("    - {{name: lan, virtio: {end}}}\n");
        self
    }

    /// With a virtio network on br0 that has so many queues.
    pub fn queues(mut self, queues: u16) -> Self {
        self.networks +=
            &format!("    - {{name: service, virtio: {{bridge: br0}}, queues: {queues}}}\n");
        self
    }

    /// With a network that claims a VF, or else is connected to br0.
    pub fn claim_or_bridge(mut self) -> Self {
        self.networks +=
            "    - {name: net0, claim: {pool: lan}, fallback: {virtio: {bridge: br0}}}\n";
        self
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Guest { name, verb, cpus, memory, kernel, initrd, disks, networks, .. } = self;
        let Guest { rng, virtio, vsock, ports, limits, .. } = self;
        write!(
            text,
            "apiVersion: assign/v1\n\
             kind: Guest\n\
             metadata: {{name: {name}}}\n\
             spec:\n  \
               cpus: {cpus}\n  \
               memory: {memory}\n  \
               boot: {{kernel: {kernel}, initrd: {initrd}, \
                       cmdline: \"console=ttyS0 quiet lab={verb}\"}}\n"
        )?;
        if !disks.is_empty() {
            write!(text, "  disks:\n{disks}")?;
        }
        if *rng {
            writeln!(text, "  rng: true")?;
        }
        if !virtio.is_empty() {
            writeln!(text, "  virtio: {virtio}")?;
        }
        if !vsock.is_empty() {
            writeln!(text, "  vsock: {vsock}")?;
        }
        if !ports.is_empty() {
            writeln!(text, "  ports: {ports}")?;
        }
        if !limits.is_empty() {
            writeln!(text, "  limits: {limits}")?;
        }
        if !networks.is_empty() {
            write!(text, "  networks:\n{networks}")?;
        }
        Ok(())
    }
}
