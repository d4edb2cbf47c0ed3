//! Scripts as distributions generate them, in short.

use std::collections::BTreeMap;

use super::*;

/// Filesystems of texts: the UUID, the number of the partition, and the files.
struct Fake(Vec<(&'static str, u32, BTreeMap<&'static str, &'static str>)>);

impl Devices for Fake {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        self.0.iter().position(|(one, ..)| *one == uuid)
    }

    fn by_label(&self, label: &str) -> Option<usize> {
        self.0.iter().position(|(one, ..)| label == format!("label-{one}"))
    }

    fn by_number(&self, number: Option<u32>) -> Option<usize> {
        self.0.iter().position(|(_, one, _)| Some(*one) == number)
    }

    fn has(&self, device: usize, path: &str) -> bool {
        self.0.get(device).is_some_and(|(.., files)| files.contains_key(path))
    }

    fn text(&self, device: usize, path: &str) -> Option<String> {
        self.0.get(device)?.2.get(path).map(|text| (*text).to_owned())
    }
}

fn devices() -> Fake {
    let files = |files: &[(&'static str, &'static str)]| files.iter().copied().collect();
    Fake(vec![
        ("efi", 15, files(&[])),
        (
            "boot",
            16,
            files(&[(
                "/grub/grubenv",
                "# GRUB Environment Block\nsaved_entry=b\nnext_entry=c\n###",
            )]),
        ),
        ("root", 1, files(&[("/boot/vmlinuz", "")])),
    ])
}

/// The titles of the menu, the default, and what that loads.
fn run(text: &str) -> (Vec<String>, Option<String>, Loads) {
    let devices = devices();
    let mut script = Script::new(&devices, 1, "/grub");
    script.run(text).expect("a script");
    let entries = script.entries.clone();
    let titles = entries.iter().map(|entry| entry.title.clone()).collect();
    let default = default_of(&entries, script.value("default"));
    let loads = default.map(|at| script.load(&entries[at]).expect("an entry"));
    (titles, default.map(|at| entries[at].title.clone()), loads.unwrap_or_default())
}

fn at(device: usize, path: &str) -> Location {
    Location { device, path: path.to_owned() }
}

#[test]
fn ubuntus_images_for_clouds_boot_with_their_initial_ram_disk() {
    let (titles, default, loads) = run(r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${initrdfail}" = 2 ]; then
   set initrdfail=
elif [ "${initrdfail}" = 1 ]; then
   set next_entry="${prev_entry}"
   set prev_entry=
   save_env prev_entry
   if [ "${next_entry}" ]; then
      set initrdfail=2
   fi
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function gfxmode {
	set gfxpayload="${1}"
	if [ "${1}" = "keep" ]; then
		set vt_handoff=vt.handoff=7
	fi
}
if [ "${recordfail}" != 1 ]; then
  if [ -e ${prefix}/gfxblacklist.txt ]; then
    if [ ${grub_platform} != pc ]; then
      set linux_gfx_mode=keep
    fi
  fi
fi
menuentry 'Ubuntu' --class ubuntu --class os $menuentry_id_option 'gnulinux-simple-1' {
	recordfail
	load_video
	gfxmode $linux_gfx_mode
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt16 --hint='hd0,gpt16'  boot
	else
	  search --no-floppy --fs-uuid --set=root boot
	fi
	if [ "${initrdfail}" = 1 ]; then
	  echo	'GRUB_FORCE_PARTUUID set, initrdless boot failed. Attempting with initrd.'
	  linux	/vmlinuz-6.8 root=PARTUUID=1 ro  console=tty1 console=ttyS0
	  initrd	/initrd.img-6.8
	else
	  echo	'GRUB_FORCE_PARTUUID set, attempting initrdless boot.'
	  linux	/vmlinuz-6.8 root=PARTUUID=1 ro  console=tty1 console=ttyS0 panic=-1
	fi
	initrdfail
}
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Ubuntu, with Linux 6.8' $menuentry_id_option 'gnulinux-6.8' {
		linux /vmlinuz-6.8 single
	}
}
"#);
    assert_eq!(titles, ["Ubuntu", "Advanced options for Ubuntu", "Ubuntu, with Linux 6.8"]);
    assert_eq!(default.as_deref(), Some("Ubuntu"));
    assert_eq!(loads.kernel, Some(at(1, "/vmlinuz-6.8")));
    assert_eq!(loads.initrds, [at(1, "/initrd.img-6.8")]);
    assert_eq!(loads.cmdline, "root=PARTUUID=1 ro console=tty1 console=ttyS0");
}

#[test]
fn a_saved_entry_is_the_default_and_one_for_once_is_not() {
    let text = |default: &str| {
        format!(
            "load_env\nset default=\"{default}\"\n\
             menuentry A --id a {{ linux /a }}\nmenuentry B --id b {{ linux /b }}\n\
             submenu C --id c {{\n menuentry D --id d {{ linux /d }}\n menuentry E --id e {{ linux /e }}\n}}\n\
             menuentry F {{ linux /f }}\n"
        )
    };
    for (default, expected) in [
        ("${saved_entry}", "B"),
        ("${next_entry}", "A"),
        ("1", "B"),
        ("2", "D"),
        ("2>1", "E"),
        ("c>e", "E"),
        ("C>E", "E"),
        ("3", "F"),
        ("F", "F"),
        ("99", "A"),
        ("no such", "A"),
    ] {
        assert_eq!(run(&text(default)).1.as_deref(), Some(expected), "{default}");
    }
}

#[test]
fn kernels_are_where_their_device_is() {
    for (body, device) in [
        ("linux /boot/vmlinuz", 1),
        ("set root=hd0,gpt1\nlinux /boot/vmlinuz", 2),
        ("set root='(hd0,msdos15)'\nlinux (hd0,1)/boot/vmlinuz", 2),
        ("search --label label-root --set\nlinux /boot/vmlinuz", 2),
        ("search.fs_label label-root root\nlinux /boot/vmlinuz", 2),
        ("search --file --set=dev /boot/vmlinuz\nlinux ($dev)/boot/vmlinuz", 2),
        ("search -n -u root -s root --hint hd0\nlinux16 /boot/vmlinuz", 2),
        ("search --fs-uuid --set=root lost\nlinuxefi /boot/vmlinuz", 1),
    ] {
        let (.., loads) = run(&format!("menuentry A {{\n{body}\n}}"));
        assert_eq!(loads.kernel, Some(at(device, "/boot/vmlinuz")), "{body}");
    }
    let (.., loads) = run("menuentry A {\nlinux (hd0,gpt9)/k\n}");
    assert_eq!(loads.kernel, None);
}

#[test]
fn command_lines_and_ram_disks_are_put_together() {
    let (.., loads) = run("set more=' quiet  splash '\nmenuentry A {\n\
                           linux /k root=/dev/vda1 $more \"dyndbg=file a.c +p\" ${none} \"$none\" end\n\
                           initrd /ucode.img (hd0,gpt1)/initrd.img $none\n}");
    assert_eq!(loads.cmdline, "root=/dev/vda1 quiet splash \"dyndbg=file a.c +p\"  end");
    assert_eq!(loads.initrds, [at(1, "/ucode.img"), at(2, "/initrd.img")]);
    let (.., loads) = run("menuentry W { chainloader /EFI/w.efi }");
    assert_eq!(loads.other.as_deref(), Some("chainloader"));
}

#[test]
fn whatever_a_script_says_it_ends() {
    let devices = devices();
    let run = |text: &str| Script::new(&devices, 1, "/grub").run(text);
    assert!(run(&"set a=b\n".repeat(200_000)).is_err());
    assert!(run(&"menuentry a { b }\n".repeat(1000)).is_err());
    let doubled = format!("set a=aaaaaaaaaaaaaaaa\n{}", "set a=$a$a\n".repeat(64));
    assert!(run(&doubled).is_err());
    let many: String = (0..5000).map(|at| format!("set a{at}=b\n")).collect();
    assert!(run(&many).is_ok());
    let include = Fake(vec![("a", 1, BTreeMap::from([("/grub.cfg", "source /grub.cfg")]))]);
    assert!(Script::new(&include, 0, "/").run("source /grub.cfg").is_err());
    for text in [
        "[",
        "[ ]",
        "test",
        "set",
        "set =",
        "=",
        "search",
        "search --set=",
        "linux",
        "initrd",
        "menuentry",
        "source",
        "$a",
        "()",
        "linux (",
        "configfile",
    ] {
        run(text).expect(text);
    }
}
