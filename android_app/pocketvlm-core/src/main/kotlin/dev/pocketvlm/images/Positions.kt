package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid

/** On which a token has a position. */
internal const val AXES = 3

/**
 * [tokens, 3] of a prompt whose tokens are of the picture with that index, -1: of text. [grids] count tokens. The text behind
 * a picture goes on at its longer side, so that a position is never larger than the token's place
 * (`pocketvlm.images.positions` of Python).
 */
internal fun positionsOf(pictures: IntArray, grids: List<Grid>): IntArray {
    val found = IntArray(AXES * pictures.size)
    fun put(token: Int, first: Int, second: Int, third: Int) {
        found[AXES * token] = first
        found[AXES * token + 1] = second
        found[AXES * token + 2] = third
    }
    var at = 0
    var token = 0
    while (token < pictures.size) {
        if (pictures[token] < 0) {
            put(token++, at, at, at)
            at++
            continue
        }
        val grid = grids[pictures[token]]
        for (place in 0 until grid.tiles.toInt()) put(token++, at, at + place / grid.across, at + place % grid.across)
        at += maxOf(grid.across, grid.down)
    }
    return found
}

/** Those of text, from [first] on: [tokens, 3]. */
internal fun alongText(first: Int, tokens: Int): IntArray = IntArray(AXES * tokens) { first + it / AXES }

/** The axis by which each pair of a head's channels turns; [sections]: how many pairs each axis has. */
internal fun axisOfPairs(sections: List<Int>, interleaved: Boolean): IntArray {
    if (!interleaved) return sections.flatMapIndexed { axis, pairs -> List(pairs) { axis } }.toIntArray()
    val axes = IntArray(sections.sum())
    for (axis in 1 until sections.size) {
        for (at in axis until minOf(axes.size, sections.size * sections[axis]) step sections.size) axes[at] = axis
    }
    return axes
}
