package dev.pocketvlm.text

import kotlin.random.Random

/**
 * Tokens and their numbers without an object for each: all texts in UTF-8 one behind the other, of which the one at
 * index i ends before `ends[i]` and has the number `ids[i]`, not below 0. Of one token twice the last counts.
 */
internal class Vocabulary(val bytes: ByteArray, val ends: IntArray, val ids: IntArray) {
    private val seed = Random.nextLong()
    private val table = IntArray(powerOfTwo(ids.size)) { -1 }

    /** Number and index, sorted; null where each number is its index. */
    private val byId: LongArray?

    val size: Int get() = ids.size

    init {
        var again = 0
        val isGone = BooleanArray(ids.size)
        for (index in ids.indices) {
            val slot = slot(bytes, start(index), ends[index])
            if (table[slot] >= 0) {
                isGone[table[slot]] = true
                again++
            }
            table[slot] = index
        }
        val isInOrder = again == 0 && ids.indices.all { ids[it] == it }
        val live = ids.indices.filterNot { isInOrder || isGone[it] }
        byId = if (isInOrder) null else LongArray(live.size) { ids[live[it]].toLong().shl(32) or live[it].toLong() }.apply { sort() }
    }

    private fun start(index: Int): Int = if (index == 0) 0 else ends[index - 1]

    /** The number of the token that stands in [text] from [from] to [to]; -1: there is none. */
    fun find(text: ByteArray, from: Int, to: Int): Int = table[slot(text, from, to)].let { if (it < 0) -1 else ids[it] }

    operator fun get(token: String): Int? = token.toByteArray().let { find(it, 0, it.size) }.takeIf { it >= 0 }

    /** The text of a token's number, or null. */
    fun token(id: Int): String? {
        val index = index(id)
        return if (index < 0) null else String(bytes, start(index), ends[index] - start(index), Charsets.UTF_8)
    }

    /** Writes a token's bytes to [to] from [at] on; where they end, or -1: there is none, or no room. */
    fun copy(id: Int, to: ByteArray, at: Int): Int {
        val index = index(id)
        if (index < 0) return -1
        val length = ends[index] - start(index)
        if (length > to.size - at) return -1
        bytes.copyInto(to, at, start(index), ends[index])
        return at + length
    }

    /** Calls [each] with code point and number of the tokens that are one character. */
    inline fun characters(each: (point: Int, id: Int) -> Unit) {
        for (index in ids.indices) {
            val from = if (index == 0) 0 else ends[index - 1]
            val length = ends[index] - from
            if (length !in 1..4 || find(bytes, from, ends[index]) != ids[index]) continue
            val text = String(bytes, from, length, Charsets.UTF_8)
            if (text.length == Character.charCount(text.codePointAt(0))) each(text.codePointAt(0), ids[index])
        }
    }

    private fun index(id: Int): Int {
        if (byId == null) return if (id in ids.indices) id else -1
        val found = byId.binarySearch(id.toLong().shl(32) or Int.MAX_VALUE.toLong())
        val before = -found - 2 // the last one with this number
        return if (before >= 0 && byId[before] ushr 32 == id.toLong()) byId[before].toInt() else -1
    }

    /** Where the token is, or would be. The seed keeps a hostile file from filling one place. */
    private fun slot(text: ByteArray, from: Int, to: Int): Int {
        var hash = seed
        for (at in from until to) {
            hash = (hash xor text[at].toLong()) * FACTOR
            hash = hash xor (hash ushr 29)
        }
        var slot = (hash xor (hash ushr 32)).toInt() and (table.size - 1)
        while (table[slot] >= 0 && !isEqual(table[slot], text, from, to)) slot = (slot + 1) and (table.size - 1)
        return slot
    }

    private fun isEqual(index: Int, text: ByteArray, from: Int, to: Int): Boolean {
        val start = start(index)
        if (ends[index] - start != to - from) return false
        for (at in 0 until to - from) if (bytes[start + at] != text[from + at]) return false
        return true
    }

    private companion object {
        const val FACTOR = -0x61c8864680b583ebL
    }
}

/** A size for open addressing of so many entries, of which at least a third stays free. */
internal fun powerOfTwo(entries: Int): Int = maxOf(8, Integer.highestOneBit(maxOf(1, entries + entries / 2)) * 2)
