package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling

/** What Idefics3's processor clips to, pixels. */
private const val MAX_EDGE = 4096

/** transformers' resize, resize_for_vision_encoder and split_images: two sizes, one after the other. */
internal fun idefics3(size: Size, tiling: Tiling): List<Size> {
    val tile = tiling.tileSize
    val first = withLonger(longestEdge(tiling), size) { maxOf(it + it % 2, 1) }
    if (mostTiles(tiling) == 1) return listOf(first, Size(tile, tile))
    val whole = tilesOver(maxOf(first.width, first.height), tile) * tile
    return listOf(first, withLonger(whole, first) { tilesOver(it, tile) * tile })
}

/** The size whose longer side has [longer] pixels, the other its share rounded down and then as [rounded] says. */
private fun withLonger(longer: Int, size: Size, rounded: (Int) -> Int): Size {
    val ratio = size.width.toDouble() / size.height
    return if (size.width >= size.height) Size(longer, rounded((longer / ratio).toInt()))
    else Size(rounded((longer * ratio).toInt()), longer)
}

/** Why this rule cannot follow a tiling, or null where it can. */
internal fun idefics3Problem(tiling: Tiling): String? {
    val longest = longestEdge(tiling)
    if (longest !in 2..MAX_EDGE || longest % 2 != 0) return "longest_edge: not an even number up to $MAX_EDGE"
    if (mostTiles(tiling) == 1) return null
    val most = tilesOver(longest, tiling.tileSize)
    val known = tiling.candidates.toSet()
    val isLacking = (1..most).any { Grid(most, it) !in known || Grid(it, most) !in known }
    return if (isLacking) "candidates: they lack a grid that a picture can get" else null
}

/** What the longer side is resized to first, pixels. */
private fun longestEdge(tiling: Tiling): Int {
    tiling.longestEdge?.let { return it }
    val whole = minOf(mostTiles(tiling).toLong() * tiling.tileSize, MAX_EDGE.toLong()).toInt()
    return maxOf(whole - whole % 2, 2)
}

private fun mostTiles(tiling: Tiling): Int = maxOf(1, tiling.candidates.maxOf { maxOf(it.across, it.down) })

private fun tilesOver(pixels: Int, tile: Int): Int = (pixels + tile - 1) / tile
