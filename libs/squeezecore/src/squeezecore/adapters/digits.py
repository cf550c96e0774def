"""From text to exact integers, digit by digit: the kernel below every CSV that is read.

Numbers with signs, fractions and exponents, flags in all their spellings, times in s, ms, µs, ns or ISO 8601. No value
passes through a float; one that an int64 cannot hold exactly is an error with a code, never a rounded value.
"""

# Kernels take bytes and positions; numba infers their types, and has no fast set.
# ruff: noqa: ANN001, ANN201, ANN202, PLR1714, SIM109
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
from numba import njit

FIELD_DIGITS_MAX = 18  # digits of a number that surely fit int64
TIME_NS_MIN = 1_230_768_000 * 10**9  # 2009-01-01: no trade of a crypto-currency is older
TIME_NS_MAX = 4_102_444_800 * 10**9  # 2100-01-01

SKIP, INTEGER, DECIMAL, MAKER, TIME, SIDE = range(6)
OK, NOT_A_NUMBER, TOO_FINE, TOO_LARGE, NEGATIVE, NOT_A_FLAG, NOT_A_TIME, NOT_A_SIDE, TOO_FEW, TOO_MANY = range(10)


@njit(cache=True, inline="always")
def _digit(byte: int) -> int:
    return byte - 48 if 48 <= byte <= 57 else -1


@njit(cache=True)
def _decimal(data, a, b, scale):
    """Parse `data[a:b]` to `value * 10**scale`, exactly; signs, fractions and exponents are read."""
    negative = False
    if a < b and (data[a] == 45 or data[a] == 43):  # - +
        negative = data[a] == 45
        a += 1
    mantissa, digits, dropped, fraction, seen, point = 0, 0, 0, 0, False, False
    while a < b:
        digit = _digit(data[a])
        if digit >= 0:
            seen = True
            if digits < FIELD_DIGITS_MAX or mantissa == 0:
                mantissa = mantissa * 10 + digit
                digits += mantissa > 0
                fraction += point
            elif digit != 0:
                return 0, TOO_LARGE if not point else TOO_FINE
            else:
                dropped += not point
        elif data[a] == 46 and not point:  # .
            point = True
        else:
            break
        a += 1
    if not seen:
        return 0, NOT_A_NUMBER
    exponent = 0
    if a < b:
        if data[a] != 69 and data[a] != 101:  # E e
            return 0, NOT_A_NUMBER
        a += 1
        minus = a < b and data[a] == 45
        if a < b and (data[a] == 45 or data[a] == 43):
            a += 1
        if a == b or b - a > 3:
            return 0, NOT_A_NUMBER
        while a < b:
            digit = _digit(data[a])
            if digit < 0:
                return 0, NOT_A_NUMBER
            exponent = exponent * 10 + digit
            a += 1
        if minus:
            exponent = -exponent
    shift = scale - fraction + exponent + dropped
    while shift < 0 and mantissa != 0:
        if mantissa % 10 != 0:
            return 0, TOO_FINE
        mantissa //= 10
        shift += 1
    while shift > 0 and mantissa != 0:
        if mantissa > 922_337_203_685_477_580:  # 2**63 / 10
            return 0, TOO_LARGE
        mantissa *= 10
        shift -= 1
    return (-mantissa if negative else mantissa), OK


@njit(cache=True)
def _number(data, a, count):
    """Parse exactly `count` digits at `a`; -1 when there are none."""
    value = 0
    for k in range(a, a + count):
        digit = _digit(data[k])
        if digit < 0:
            return -1
        value = value * 10 + digit
    return value


@njit(cache=True)
def _iso_ns(data, a, b):
    """Parse `YYYY-MM-DD[T hh:mm:ss[.fffffffff]][Z|+00:00]` to UTC nanoseconds; -1 when it is none, or not in UTC."""
    if b - a < 10:
        return -1
    year, month, day = _number(data, a, 4), _number(data, a + 5, 2), _number(data, a + 8, 2)
    if year < 0 or month < 1 or month > 12 or day < 1 or day > 31 or data[a + 4] != 45 or data[a + 7] != 45:
        return -1
    shifted = year - (month <= 2)  # days of the civil calendar, with years that begin in March
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    seconds, nanos, p = days * 86_400, 0, a + 10
    if p < b and (data[p] == 84 or data[p] == 32):  # T or space
        if b - p < 9 or data[p + 3] != 58 or data[p + 6] != 58:
            return -1
        hour, minute, second = _number(data, p + 1, 2), _number(data, p + 4, 2), _number(data, p + 7, 2)
        if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
            return -1
        seconds += hour * 3600 + minute * 60 + second
        p += 9
        if p < b and data[p] == 46:
            p += 1
            unit = 100_000_000
            while p < b and _digit(data[p]) >= 0:
                nanos += _digit(data[p]) * unit
                unit //= 10
                p += 1
    if p < b and data[p] == 90:  # Z
        p += 1
    elif p < b and (data[p] == 43 or data[p] == 45):  # an offset must be zero
        p += 1
        while p < b:
            if data[p] != 48 and data[p] != 58:
                return -1
            p += 1
    return seconds * 1_000_000_000 + nanos if p == b else -1


@njit(cache=True)
def time_ns(data, a, b, unit, units):
    """Parse a time to UTC ns. `unit` is its power of ten in ns, or -1 to take it from the magnitude."""
    if b - a >= 10 and data[a + 4] == 45:
        units[4] += 1
        return _iso_ns(data, a, b)
    whole = a
    while whole < b and _digit(data[whole]) >= 0:
        whole += 1
    power = unit
    if unit < 0:  # 1e11 s is the year 5138, 1e11 ms is 1973: between 2009 and 2100 the units cannot be mistaken
        length = whole - a
        power = 9 if length <= 11 else (6 if length <= 14 else (3 if length <= 17 else 0))
    value, code = _decimal(data, a, b, power)
    units[power // 3] += 1
    return value if code == OK else -1


@njit(cache=True)
def _is_word(data, a, b, word):
    """Compare `data[a:b]` with a lower-case word, ignoring case; the word ends with its first zero byte."""
    n = b - a
    if n > len(word) or (n < len(word) and word[n] != 0):
        return False
    for k in range(n):
        byte = data[a + k]
        if 65 <= byte <= 90:
            byte += 32
        if byte != word[k]:
            return False
    return True


@njit(cache=True)
def _flag(data, a, b):
    """Parse a flag in any of its spellings; -1 when it is none."""
    n = b - a
    first = data[a] if n > 0 else 0
    if n == 1:
        if first == 49 or first == 84 or first == 116:  # 1 T t
            return 1
        return 0 if first == 48 or first == 70 or first == 102 else -1  # 0 F f
    if n == 4 and (first | 32) == 116 and (data[a + 1] | 32) == 114 and (data[a + 2] | 32) == 117:
        return 1 if (data[a + 3] | 32) == 101 else -1
    if n == 5 and (first | 32) == 102 and (data[a + 1] | 32) == 97 and (data[a + 2] | 32) == 108:
        return 0 if (data[a + 3] | 32) == 115 and (data[a + 4] | 32) == 101 else -1
    return -1


@njit(cache=True)
def _field(data, a, b, kind, scale, words, sides, units):
    """Parse one field to an integer and a code."""
    if kind == DECIMAL or kind == INTEGER:
        value, code = _decimal(data, a, b, scale if kind == DECIMAL else 0)
        return value, (NEGATIVE if code == OK and value < 0 else code)
    if kind == MAKER:  # the buyer was the maker: the taker sold
        flag = _flag(data, a, b)
        return 1 - 2 * flag, (NOT_A_FLAG if flag < 0 else OK)
    if kind == TIME:
        value = time_ns(data, a, b, scale, units)
        return value, (OK if TIME_NS_MIN <= value < TIME_NS_MAX else NOT_A_TIME)
    for k in range(len(words)):
        if _is_word(data, a, b, words[k]):
            return np.int64(sides[k]), OK
    return 0, NOT_A_SIDE


@njit(cache=True)
def parse_lines(data, size, at_end, delimiter, kinds, scales, words, sides, units, out):
    """Parse whole lines of `data[:size]` into `out[column, row]`.

    `kinds` and `scales` say what each column of the file is; column j of the file becomes row j of `out`. Returns rows,
    bytes used, lines used, and for an error its code, column, and the bounds of the field.
    """
    p, rows, lines, width = 0, 0, 0, len(kinds)
    while p < size and rows < out.shape[1]:
        end = p
        while end < size and data[end] != 10:
            end += 1
        if end == size and not at_end:
            break
        stop = end - 1 if end > p and data[end - 1] == 13 else end  # CRLF
        lines += 1
        if stop > p:
            a, column = p, 0
            while a <= stop:
                b = a
                while b < stop and data[b] != delimiter:
                    b += 1
                if column < width and kinds[column] != SKIP:
                    x, y = a, b
                    while x < y and (data[x] == 32 or data[x] == 34):  # space and quote
                        x += 1
                    while y > x and (data[y - 1] == 32 or data[y - 1] == 34):
                        y -= 1
                    value, code = _field(data, x, y, kinds[column], scales[column], words, sides, units)
                    if code != OK:
                        return rows, p, lines, code, column, x, y
                    out[column, rows] = value
                column += 1
                a = b + 1
            if column != width:
                return rows, p, lines, (TOO_FEW if column < width else TOO_MANY), column, p, stop
            rows += 1
        p = min(end + 1, size)
    return rows, p, lines, OK, 0, 0, 0
