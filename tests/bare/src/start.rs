//! From the PVH entry (32-bit protected mode, no paging; Xen, docs/misc/pvh.pandoc) to Rust in long mode.
//! The first 4 GiB are mapped as they are: RAM, the window of 32-bit BARs, and configuration space.

use core::arch::global_asm;

global_asm!(
    r#"
.section .note.Xen, "a", @note
    .long 4, 8, 18              # name, descriptor; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start

.section .text.start, "ax"
.code32
.global start
start:
    cli
    cld
    mov $stack_end, %esp
    # Four tables of 512 pages of 2 MiB.
    mov $0x83, %eax             # present, writable, large
    mov $pages, %edi
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $(pages + 3), %eax      # present, writable
    mov $tables, %edi
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    movl $(tables + 3), top
    mov $top, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax             # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $0xc0000080, %ecx       # EFER
    rdmsr
    or $0x100, %eax             # LME
    wrmsr
    mov %cr0, %eax
    and $0xfffffffb, %eax       # EM off
    or $0x80000002, %eax        # PG, MP
    mov %eax, %cr0
    lgdt descriptors
    ljmp $8, $3f
.code64
3:  xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_end, %rsp
    call run
4:  hlt
    jmp 4b

.section .rodata.start, "a"
.balign 8
table:
    .quad 0
    .quad 0x00af9a000000ffff    # 64-bit code
descriptors:
    .word 15
    .quad table

.section .bss.start, "aw", @nobits
.balign 4096
top:    .skip 4096
tables: .skip 4096
pages:  .skip 4 * 4096
stack:  .skip 65536
stack_end:
"#,
    options(att_syntax)
);
