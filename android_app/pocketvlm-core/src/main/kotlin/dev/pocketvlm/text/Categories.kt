package dev.pocketvlm.text

private const val CLASSES = 24
private const val NONE = 22
private const val NEW_DIGIT = 23
private const val BMP = 0x10000
private const val POINTS = 0x110000
private const val FIRST_SURROGATE = 0xd800
private const val BEHIND_SURROGATES = 0xe000

/**
 * Which letters, digits and signs there are, by a table of its own: the tokenizers library, Java and each Android know
 * another version of Unicode, and a text must be cut alike everywhere.
 */
internal object Categories {
    /** In the order of `android_app/unicode_tables.py`; other code points have none that is told apart. */
    private val names = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So".split(' ')

    /** Of each code point of the first plane, and of runs beyond, by where they start. */
    private val first = ByteArray(BMP)
    private val starts: IntArray
    private val kinds: ByteArray

    /** What `Digits` tells apart, by Rust's newer Unicode than that of patterns. */
    val DIGITS: Int = mask("N")!! or (1 shl NEW_DIGIT)

    init {
        val runs = runs()
        for ((start, end, kind) in runs) if (start < BMP) first.fill(kind.toByte(), start, minOf(end, BMP))
        val beyond = runs.filter { it.second > BMP }
        starts = IntArray(beyond.size) { beyond[it].first }
        kinds = ByteArray(beyond.size) { beyond[it].third.toByte() }
    }

    /** Start, end and category of each run; surrogates have none. */
    private fun runs(): List<Triple<Int, Int, Int>> {
        val runs = arrayListOf(Triple(FIRST_SURROGATE, BEHIND_SURROGATES, NONE))
        val packed = Packed(CATEGORY_RUNS)
        var point = 0
        while (packed.hasNext) {
            val number = packed.next()
            val kind = number % CLASSES
            val end = point + number / CLASSES + 1
            if (point < FIRST_SURROGATE && end > FIRST_SURROGATE) {
                runs.add(Triple(point, FIRST_SURROGATE, kind))
                point = end + BEHIND_SURROGATES - FIRST_SURROGATE
                runs.add(Triple(BEHIND_SURROGATES, point, kind))
            } else {
                runs.add(Triple(point, end, kind))
                point = if (end == FIRST_SURROGATE) BEHIND_SURROGATES else end
            }
        }
        check(point == POINTS) { "the table of categories ends at $point" }
        return runs
    }

    /** A code point's category, as the one bit of it that [mask] may have. */
    fun bit(point: Int): Int {
        if (point < BMP) return 1 shl first[point].toInt()
        val found = starts.binarySearch(point)
        return 1 shl kinds[if (found < 0) -found - 2 else found].toInt()
    }

    /** The bits of `L`, or of `Lu`; null where there is no such name. */
    fun mask(name: String): Int? =
        names.indices.filter { names[it].startsWith(name) }.takeIf { it.isNotEmpty() }?.sumOf { 1 shl it }
}
