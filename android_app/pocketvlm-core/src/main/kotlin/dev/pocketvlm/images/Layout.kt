package dev.pocketvlm.images

import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.ImageLayout

/** Literal token [ids], and so many of the image's own tokens behind them. */
internal class LayoutPiece(val ids: List<Int>, val tokens: Int)

/**
 * Where an image's tokens stand in the prompt: [tokens] of what stands at each place, in sequence order; [packed] is how many
 * they are where they were packed to one picture. [number]: of images before it in the conversation.
 *
 * @throws ChatInvalid the layout has no number for it
 */
internal fun laidOut(
    layout: ImageLayout,
    grid: Grid,
    thumbnail: Int?,
    tokens: List<Int>,
    packed: Int? = null,
    number: Int = 0,
): List<LayoutPiece> {
    val start = layout.imageStart + numbered(layout, number)
    if (packed != null) return listOf(LayoutPiece(start, packed), LayoutPiece(layout.imageEnd, 0))
    val pieces = arrayListOf(LayoutPiece(start, 0))
    val next = tokens.iterator()
    fun add(around: List<Int>, end: List<Int>?) {
        pieces.add(LayoutPiece(around, next.next()))
        if (end != null) pieces.add(LayoutPiece(end, 0))
    }
    if (thumbnail == 0) add(layout.thumbnail, layout.thumbnailEnd)
    if (grid.tiles == 1L && thumbnail == null && layout.lone != null) {
        add(layout.lone, layout.thumbnailEnd)
    } else {
        for (row in 0 until grid.down) {
            for (column in 0 until grid.across) add(layout.tile[row][column], layout.tileEnd)
            val last = layout.lastRowEnd.takeIf { row + 1 == grid.down }
            pieces.add(LayoutPiece(last ?: layout.rowEnd, 0))
        }
    }
    if (thumbnail != null && thumbnail > 0) add(layout.thumbnail, layout.thumbnailEnd)
    pieces.add(LayoutPiece(layout.imageEnd, 0))
    return pieces
}

private fun numbered(layout: ImageLayout, number: Int): List<Int> {
    val numbers = layout.numbers ?: return emptyList()
    return numbers.getOrNull(number)
        ?: throw ChatInvalid("this bundle has numbers for ${numbers.size} images of a conversation, not for more")
}
