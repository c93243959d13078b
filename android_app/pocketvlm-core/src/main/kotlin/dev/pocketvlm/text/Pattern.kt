package dev.pocketvlm.text

import dev.pocketvlm.PocketVlmException.BundleDamaged

/** Tries at one place of a text; the tokenizers library gives up behind as many. */
private const val MAX_TRIES = 10_000_000
private const val ASCII = 128

/** Code points: of some categories, some ranges, or all but these. */
internal class PointSet(private val categories: Int, private val ranges: List<IntRange>, private val isNegated: Boolean) {
    private val ascii = BooleanArray(ASCII) { isOf(it) }

    operator fun contains(point: Int): Boolean = if (point < ASCII) ascii[point] else isOf(point)

    private fun isOf(point: Int): Boolean {
        val isListed = categories and Categories.bit(point) != 0 || ranges.any { point in it }
        return isListed != isNegated
    }
}

/** A step of a pattern, with the steps that follow it. */
internal sealed class Step {
    /** A whole match. */
    object Found : Step()

    /** From [least] to [most] code points of [set], as many as there are before fewer. */
    class Repeat(val set: PointSet, val least: Int, val most: Int, val next: Step) : Step()

    /** The first of these ways that leads on. */
    class Either(val ways: List<Step>) : Step()

    /** Goes on where what is [ahead] follows, or does not. */
    class Look(val ahead: Step, val isNegated: Boolean, val next: Step) : Step()
}

/**
 * A compiled pattern, which finds what Oniguruma finds: the first of several ways counts, and a repetition takes what it
 * can. Only sets are repeated, so a match never goes deeper than the pattern is long, however long the text.
 */
internal class Pattern(private val start: Step) {
    /**
     * Calls [found] with begin and end of each match, in order.
     *
     * @throws BundleDamaged it takes so many tries that the tokenizers library would give up
     */
    inline fun each(text: String, found: (begin: Int, end: Int) -> Unit) {
        var at = 0
        while (at < text.length) {
            val end = end(text, at)
            if (end >= 0) found(at, end)
            at = if (end > at) end else at + Character.charCount(text.codePointAt(at))
        }
    }

    /** Where the match that begins here ends; -1: there is none. */
    fun end(text: String, at: Int): Int = Match(text).end(start, at)

    private class Match(private val text: String) {
        private var tries = 0

        fun end(first: Step, from: Int): Int {
            var step = first
            var at = from
            while (true) {
                if (++tries > MAX_TRIES) throw BundleDamaged("the tokenizer's pattern takes too long on this text")
                step = when (step) {
                    is Step.Found -> return at
                    is Step.Repeat -> {
                        if (step.least != 1 || step.most != 1) return repeated(step, at)
                        val point = if (at < text.length) text.codePointAt(at) else return -1
                        if (point !in step.set) return -1
                        at += Character.charCount(point)
                        step.next
                    }
                    is Step.Either -> {
                        for (index in 0 until step.ways.size - 1) end(step.ways[index], at).let { if (it >= 0) return it }
                        step.ways.last()
                    }
                    is Step.Look -> if ((end(step.ahead, at) >= 0) == step.isNegated) return -1 else step.next
                }
            }
        }

        private fun repeated(step: Step.Repeat, from: Int): Int {
            var at = from
            var count = 0
            while (count < step.most && at < text.length) {
                val point = text.codePointAt(at)
                if (point !in step.set) break
                at += Character.charCount(point)
                count++
            }
            while (count >= step.least) {
                val end = end(step.next, at)
                if (end >= 0 || count == 0) return end
                at -= Character.charCount(text.codePointBefore(at))
                count--
            }
            return -1
        }
    }
}
