# A guest that sends from its first instruction: the ROM in which a PC starts, and nothing else.
# The ROM begins with the frames, each after its length. 200 times a second the guest sends all of
# them in order, through the RTL8139 in slot 5 of the PCI bus.
	.code16
	.intel_syntax noprefix
	.set slot5, 0x80000000 | 5 << 11
	.set nic, 0xc000		# where we map the NIC's registers

	.macro outb port, value
	mov	al, \value
	out	\port, al
	.endm

	.macro configure register, value
	mov	dx, 0xcf8
	mov	eax, slot5 | \register
	out	dx, eax
	mov	dx, 0xcfc
	mov	eax, \value
	out	dx, eax
	.endm

rom:
	.org	0xf000
start:
	configure 0x10, nic
	configure 0x04, 5		# enable its I/O ports and its reads from memory
	mov	dx, nic + 0x37
	outb	dx, 4			# switch its transmitter on
	xor	bx, bx			# 4 * the next descriptor; the four take turns

	# The timer interrupts 200 times a second. The interrupt ends hlt.
	mov	word ptr es:[8 * 4], offset tick - rom
	mov	word ptr es:[8 * 4 + 2], cs
	mov	edi, 0xfee00350		# the local APIC passes on the old controller's interrupts;
	mov	dword ptr es:[edi], 0x700 # the address is past the segment: QEMU's emulation allows that
	outb	0x20, 0x11		# the old controller: interrupts from 8, no EOI needed,
	outb	0x21, 8
	outb	0x21, 4
	outb	0x21, 3
	outb	0x21, 0xfe		# only the timer's enabled
	outb	0x43, 0x34
	outb	0x40, 5966 & 0xff	# of 1193182 Hz
	outb	0x40, 5966 >> 8

round:
	xor	esi, esi
frame:
	mov	ecx, cs:[si]
	jecxz	rest
	lea	eax, [esi + 0xf0004]	# the frame's address in memory
	lea	dx, [bx + nic + 0x20]
	out	dx, eax
	mov	eax, ecx		# writing its length sends it
	sub	dx, 0x10
	out	dx, eax
	lea	esi, [esi + ecx + 4]
	add	bx, 4
	and	bx, 12
	jmp	frame
rest:
	sti
	hlt
	jmp	round
tick:
	iret

	.org	0xfff0			# the first instruction: far jump to the ROM at 0xf0000
	.byte	0xea
	.word	start - rom, 0xf000
	.org	0xffff
	.byte	0
