package dev.pocketvlm.text

import java.util.BitSet

private const val HANGUL = 0xac00
private const val LEADING = 0x1100
private const val VOWELS = 0x1161
private const val TRAILING = 0x11a7
private const val LEADING_COUNT = 19
private const val VOWEL_COUNT = 21
private const val TRAILING_COUNT = 28
private const val SYLLABLES = LEADING_COUNT * VOWEL_COUNT * TRAILING_COUNT

/** Code points below are composed already, and nothing joins them. */
private const val FIRST_MARK = '\u0300'

/** Decompositions, combining classes and pairs, read once. */
private object Composition {
    private val decompositions = HashMap<Int, IntArray>()
    private val pairs = HashMap<Long, Int>()
    private val ranks = HashMap<Int, Int>()

    /** What can make a text another: it is never in a composed one, or joins what stands before it. */
    val matters = BitSet()

    init {
        val packed = Packed(DECOMPOSITIONS)
        var point = 0
        while (packed.hasNext) {
            point += packed.next()
            val form = packed.next()
            val parts = IntArray(form / 2) { packed.next() }
            decompositions[point] = parts
            if (form % 2 == 0) {
                matters.set(point)
            } else {
                pairs[pair(parts[0], parts[1])] = point
                matters.set(parts[1])
            }
        }
        val marks = Packed(MARKS)
        point = 0
        while (marks.hasNext) {
            val start = point + marks.next()
            point = start + marks.next() - 1
            val rank = marks.next()
            for (mark in start..point) ranks[mark] = rank
            matters.set(start, point + 1)
        }
        matters.set(VOWELS, VOWELS + VOWEL_COUNT)
        matters.set(TRAILING + 1, TRAILING + TRAILING_COUNT)
    }

    /** 0: it begins a sequence that nothing reorders. */
    fun rank(point: Int): Int = ranks[point] ?: 0

    fun decompose(point: Int, to: MutableList<Int>) {
        val syllable = point - HANGUL
        if (syllable in 0 until SYLLABLES) {
            to.add(LEADING + syllable / (VOWEL_COUNT * TRAILING_COUNT))
            to.add(VOWELS + syllable / TRAILING_COUNT % VOWEL_COUNT)
            if (syllable % TRAILING_COUNT > 0) to.add(TRAILING + syllable % TRAILING_COUNT)
            return
        }
        val parts = decompositions[point]
        if (parts == null) to.add(point) else for (part in parts) decompose(part, to)
    }

    /** What the two make together, or null. */
    fun compose(first: Int, second: Int): Int? {
        if (first - LEADING in 0 until LEADING_COUNT && second - VOWELS in 0 until VOWEL_COUNT) {
            return HANGUL + ((first - LEADING) * VOWEL_COUNT + second - VOWELS) * TRAILING_COUNT
        }
        val syllable = first - HANGUL
        val isOpen = syllable in 0 until SYLLABLES && syllable % TRAILING_COUNT == 0
        if (isOpen && second - TRAILING in 1 until TRAILING_COUNT) return first + second - TRAILING
        return pairs[pair(first, second)]
    }

    private fun pair(first: Int, second: Int): Long = first.toLong().shl(32) or second.toLong()
}

/**
 * Unicode's NFC, of the version that the tokenizers library composes by: Java's own follows the platform, and even Java
 * 17's composes pairs that this version does not know.
 */
internal fun nfc(text: String): String {
    if (text.all { it < FIRST_MARK } || text.codePoints().noneMatch(Composition.matters::get)) return text
    val points = ArrayList<Int>(text.length)
    text.codePoints().forEach { Composition.decompose(it, points) }
    val built = StringBuilder(text.length)
    for (point in composed(ordered(points))) built.appendCodePoint(point)
    return built.toString()
}

/** Marks in a row by their combining class; those of one class as they stand. */
private fun ordered(points: MutableList<Int>): List<Int> {
    var at = 0
    while (at < points.size) {
        var end = at
        while (end < points.size && Composition.rank(points[end]) > 0) end++
        if (end - at > 1) points.subList(at, end).sortBy(Composition::rank)
        at = end + 1
    }
    return points
}

private fun composed(points: List<Int>): List<Int> {
    val made = ArrayList<Int>(points.size)
    var starter = -1 // where the last one stands in made
    var last = 0 // the class of what was kept behind it
    for (point in points) {
        val rank = Composition.rank(point)
        val isNext = starter >= 0 && (made.size == starter + 1 || (last in 1 until rank))
        val whole = if (isNext) Composition.compose(made[starter], point) else null
        if (whole != null) {
            made[starter] = whole
            continue
        }
        if (rank == 0) starter = made.size
        last = rank
        made.add(point)
    }
    return made
}
