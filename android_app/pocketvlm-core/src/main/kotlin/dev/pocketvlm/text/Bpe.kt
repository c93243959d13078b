package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.BundleDamaged
import java.util.PriorityQueue

/** Byte pair encoding, as the tokenizers library's model `BPE` does it, without dropout, prefixes or suffixes. */
internal class Bpe(
    private val vocabulary: Map<String, Int>,
    merges: List<Pair<String, String>>,
    private val unknown: Int?,
    private val fuseUnknown: Boolean,
    private val ignoreMerges: Boolean,
    /** ids of `<0x00>` to `<0xFF>`; null without byte fallback */
    private val byteIds: IntArray?,
) {
    private val merges = LongMap(merges.size)
    private val words = object : LinkedHashMap<String, IntArray>(1024, 0.75f, true) {
        override fun removeEldestEntry(eldest: MutableMap.MutableEntry<String, IntArray>?) = size > MAX_WORDS
    }

    init {
        merges.forEachIndexed { rank, (first, second) ->
            val ids = listOf(first, second, first + second).map { token ->
                vocabulary[token] ?: throw BundleDamaged("tokenizer.json: a merge has or gives no token of the vocabulary")
            }
            this.merges.put(pair(ids[0], ids[1]), pair(rank, ids[2]))
        }
    }

    /** Token ids of a word: what pre-tokenization leaves together. */
    fun encode(word: String): IntArray = synchronized(words) {
        words[word] ?: merged(word).also { if (word.length <= MAX_WORD) words[word] = it }
    }

    private fun merged(word: String): IntArray {
        if (ignoreMerges) vocabulary[word]?.let { return intArrayOf(it) }
        val symbols = Symbols(characters(word))
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
            val character = word.substring(at, at + Character.charCount(word.codePointAt(at)))
            at += character.length
            val id = vocabulary[character]
            if (id != null) {
                ids.add(id)
            } else if (byteIds != null) {
                for (byte in character.toByteArray()) ids.add(byteIds[byte.toInt() and 255])
            } else if (unknown != null && !(fuseUnknown && wasUnknown)) {
                ids.add(unknown)
            }
            wasUnknown = id == null
        }
        return ids.toIntArray()
    }

    private companion object {
        const val MAX_WORDS = 10_000
        const val MAX_WORD = 64

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

/** Long to long by open addressing, neither below 0: 280,000 merges take 8 MB, not 30. */
internal class LongMap(entries: Int) {
    private val mask = Integer.highestOneBit(maxOf(8, 2 * entries)) * 2 - 1
    private val keys = LongArray(mask + 1) { -1 }
    private val values = LongArray(mask + 1)

    private fun slot(key: Long): Int {
        val hash = key * -0x61c8864680b583ebL
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
