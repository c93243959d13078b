package dev.pocketvlm.text

import java.util.PriorityQueue
import kotlin.random.Random

/** Byte pair encoding, as the tokenizers library's model `BPE` does it, without dropout, prefixes or suffixes. */
internal class Bpe(
    private val vocabulary: Vocabulary,
    /** left, right and merged number of each, by rank */
    merges: IntArray,
    private val unknown: Int?,
    private val fuseUnknown: Boolean,
    private val ignoreMerges: Boolean,
    /** ids of `<0x00>` to `<0xFF>`; null without byte fallback */
    private val byteIds: IntArray?,
) {
    private val merges = LongMap(merges.size / 3)
    private val characters: LongMap
    private val words = object : LinkedHashMap<String, IntArray>(1024, 0.75f, true) {
        override fun removeEldestEntry(eldest: MutableMap.MutableEntry<String, IntArray>?) = size > MAX_WORDS
    }

    init {
        for (rank in 0 until merges.size / 3) {
            this.merges.put(pair(merges[3 * rank], merges[3 * rank + 1]), pair(rank, merges[3 * rank + 2]))
        }
        var single = 0
        vocabulary.characters { _, _ -> single++ }
        characters = LongMap(single)
        vocabulary.characters { point, id -> characters.put(point.toLong(), id.toLong()) }
    }

    /** Token ids of a word: what pre-tokenization leaves together. */
    fun encode(word: String): IntArray = synchronized(words) {
        words[word] ?: merged(word).also { if (word.length <= MAX_WORD) words[word] = it }
    }

    private fun merged(word: String): IntArray {
        if (ignoreMerges) vocabulary[word]?.let { return intArrayOf(it) }
        val letters = characters(word)
        return if (letters.size <= MAX_SIMPLE) simple(letters) else queued(letters)
    }

    /** Merges a short word: what ranks first, of several the leftmost. */
    private fun simple(ids: IntArray): IntArray {
        var size = ids.size
        while (true) {
            var best = Long.MAX_VALUE
            var left = -1
            for (at in 0 until size - 1) {
                val merge = merges[pair(ids[at], ids[at + 1])]
                if (merge in 0 until best) {
                    best = merge
                    left = at
                }
            }
            if (left < 0) return if (size == ids.size) ids else ids.copyOf(size)
            ids[left] = best.toInt()
            ids.copyInto(ids, left + 1, left + 2, size)
            size--
        }
    }

    private fun queued(letters: IntArray): IntArray {
        val symbols = Symbols(letters)
        val queue = PriorityQueue<Candidate>()
        val offer = { left: Int ->
            val right = symbols.next[left]
            val merge = if (right < 0) -1 else merges[pair(symbols.id[left], symbols.id[right])]
            val rank = (merge ushr 32).toInt()
            if (merge >= 0) queue.add(Candidate(rank, left, symbols.id[left], symbols.id[right], merge.toInt()))
        }
        for (at in 0 until symbols.id.size - 1) offer(at)
        while (true) {
            val best = queue.poll() ?: break
            if (!symbols.has(best)) continue
            symbols.merge(best.left, best.merged)
            if (symbols.previous[best.left] >= 0) offer(symbols.previous[best.left])
            offer(best.left)
        }
        return symbols.rest()
    }

    /** A token for each character, or for each of its bytes. */
    private fun characters(word: String): IntArray {
        val ids = ArrayList<Int>(word.length)
        var wasUnknown = false
        var at = 0
        while (at < word.length) {
            val point = word.codePointAt(at)
            val length = Character.charCount(point)
            val id = characters[point.toLong()].toInt()
            if (id >= 0) {
                ids.add(id)
            } else if (byteIds != null) {
                for (byte in word.substring(at, at + length).toByteArray()) ids.add(byteIds[byte.toInt() and 255])
            } else if (unknown != null && !(fuseUnknown && wasUnknown)) {
                ids.add(unknown)
            }
            wasUnknown = id < 0
            at += length
        }
        return ids.toIntArray()
    }

    private companion object {
        const val MAX_WORDS = 10_000
        const val MAX_WORD = 64

        /** Letters of a word that are looked through for each merge. */
        const val MAX_SIMPLE = 24

        fun pair(high: Int, low: Int): Long = high.toLong().shl(32) or low.toLong()
    }
}

/** Two neighbours that a merge of this [rank] would make one. */
private class Candidate(val rank: Int, val left: Int, val leftId: Int, val rightId: Int, val merged: Int) :
    Comparable<Candidate> {
    override fun compareTo(other: Candidate): Int =
        if (rank != other.rank) rank.compareTo(other.rank) else left.compareTo(other.left)
}

/** The tokens of a word as a linked list. */
private class Symbols(val id: IntArray) {
    val previous = IntArray(id.size) { it - 1 }
    val next = IntArray(id.size) { if (it + 1 < id.size) it + 1 else -1 }
    private val isGone = BooleanArray(id.size)

    /** Whether the two still stand as they did when the merge was offered. */
    fun has(candidate: Candidate): Boolean {
        val right = next[candidate.left]
        if (isGone[candidate.left] || right < 0) return false
        return id[candidate.left] == candidate.leftId && id[right] == candidate.rightId
    }

    fun merge(left: Int, merged: Int) {
        val right = next[left]
        id[left] = merged
        isGone[right] = true
        next[left] = next[right]
        if (next[right] >= 0) previous[next[right]] = left
    }

    fun rest(): IntArray = generateSequence(if (id.isEmpty()) -1 else 0) { next[it] }
        .takeWhile { it >= 0 }.map { id[it] }.toList().toIntArray()
}

/** Long to long by open addressing, neither below 0: 150,000 merges take 4 MB, not 15. */
internal class LongMap(entries: Int) {
    private val mask = powerOfTwo(entries) - 1
    private val keys = LongArray(mask + 1) { -1 }
    private val values = LongArray(mask + 1)

    /** Drawn, so that no file can choose keys that all want one place. */
    private val factor = Random.nextLong() or 1

    private fun slot(key: Long): Int {
        var hash = (key xor (key ushr 32)) * factor
        hash = (hash xor (hash ushr 29)) * factor
        var at = (hash xor (hash ushr 32)).toInt() and mask
        while (keys[at] != -1L && keys[at] != key) at = (at + 1) and mask
        return at
    }

    fun put(key: Long, value: Long) {
        val at = slot(key)
        keys[at] = key
        values[at] = value
    }

    /** -1 where there is none. */
    operator fun get(key: Long): Long = slot(key).let { if (keys[it] == key) values[it] else -1 }
}
