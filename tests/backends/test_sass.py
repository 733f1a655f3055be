"""The reader of machine code: what it finds in a piece that went wrong on an H200."""

from __future__ import annotations

from tests.backends.sass import COPIES, LOADS, before_the_wait, early_readers, instructions

# By ptxas 13.0, of a grouped GEMM that wrote to address 0 where there was nothing to write: a pointer, null or that of
# an output, is tested five cycles after it was zeroed. Compute-sanitizer saw the writes; with six
# cycles the kernel was right.
LISTING = """
        /*2ab0*/                   CS2R R2, SRZ ;    /* 0x0000000000027805 */
                    /* 0x008fe4000001ff00 */
        /*2ac0*/              @!P1 IMAD.WIDE.U32 R2, R51, 0x40, R46 ;    /* 0x0000004033029825 */
                    /* 0x002fe200078e002e */
        /*2ad0*/                   BSSY B1, 0x2c60 ;    /* 0x0000018000017945 */
                    /* 0x000fe40003800000 */
        /*2ae0*/                   ISETP.NE.U32.AND P1, PT, R2, RZ, PT ;    /* 0x000000ff0200720c */
                    /* 0x000fc80003f25070 */
"""


def test_a_zero_that_is_read_too_early_is_found():
    code = instructions(LISTING)
    assert [each.cycles for each in code] == [2, 1, 2, 4]
    assert [(zero.address, reader.address) for zero, reader in early_readers(code)] == [(0x2AB0, 0x2AE0)]


def test_a_zero_that_is_read_late_enough_is_right():
    # The multiplication's second word, with 2 instead of 1 cycles until the next instruction.
    later = LISTING.replace("0x002fe200078e002e", "0x002fe400078e002e")
    assert [each.cycles for each in instructions(later)] == [2, 2, 2, 4]
    assert not list(early_readers(instructions(later)))
    assert list(early_readers(instructions(later), cycles=14))


def test_a_reader_under_the_predicate_of_the_write_does_not_see_the_zero():
    same = LISTING.replace("                   ISETP", "              @!P1 ISETP")
    assert not list(early_readers(instructions(same)))
    other = LISTING.replace("                   ISETP", "              @!P0 ISETP")
    assert list(early_readers(instructions(other)))


def test_without_the_zero_or_with_a_write_in_between_nothing_is_found():
    assert not list(early_readers(instructions(LISTING)[1:]))
    always = LISTING.replace("@!P1 IMAD", "     IMAD")
    assert not list(early_readers(instructions(always)))


def test_a_load_in_front_of_the_wait_is_found():
    load = "/*0010*/ @!P0 LDG.E.128.CONSTANT R24, desc[UR6][R12.64] ;    /* 0x0 */\n        /* 0x0 */\n"
    wait = "/*0020*/ ACQBULK ;    /* 0x0 */\n        /* 0x0 */\n"
    copy = "/*0030*/ LDGSTS.E.BYPASS.128 [R11], desc[UR4][R14.64] ;    /* 0x0 */\n        /* 0x0 */\n"
    load, wait, copy = (each.replace("0x0 ", "0x0000000000000000 ") for each in (load, wait, copy))
    assert [each.name for each in before_the_wait(instructions(copy + load + wait), LOADS)] == ["LDG.E.128.CONSTANT"]
    assert [each.name for each in before_the_wait(instructions(copy + load + wait), COPIES)] == ["LDGSTS.E.BYPASS.128"]
    assert not before_the_wait(instructions(wait + load + copy), LOADS + COPIES)
    assert before_the_wait(instructions(load), LOADS)
