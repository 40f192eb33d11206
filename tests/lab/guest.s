# A guest that sends from its first instruction on: the ROM that a PC starts in, with nothing else.
# At its beginning are the frames, each behind its length; they are sent one after the other, again
# and again, 200 times a second, by the RTL8139 in slot 5 of the PCI bus.
	.code16
	.intel_syntax noprefix
	.set slot5, 0x80000000 | 5 << 11
	.set nic, 0xc000		# where we put its registers

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
	configure 0x04, 5		# it answers at its registers, and reads memory
	mov	dx, nic + 0x37
	outb	dx, 4			# its transmitter is on
	xor	bx, bx			# four times the descriptor that is next: it takes turns

	# The timer shall wake us 200 times a second, which is also when hlt ends.
	mov	word ptr es:[8 * 4], offset tick - rom
	mov	word ptr es:[8 * 4 + 2], cs
	mov	edi, 0xfee00350		# the local APIC lets the old interrupt controller through;
	mov	dword ptr es:[edi], 0x700 # QEMU, where it emulates, checks no segment's limit
	outb	0x20, 0x11		# that controller: interrupts from 8 on, ended by themselves,
	outb	0x21, 8
	outb	0x21, 4
	outb	0x21, 3
	outb	0x21, 0xfe		# and none but the timer's
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
	mov	eax, ecx		# its length: that sends it
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

	.org	0xfff0			# the first instruction: jump far, to where the ROM is at 0xf0000
	.byte	0xea
	.word	start - rom, 0xf000
	.org	0xffff
	.byte	0
